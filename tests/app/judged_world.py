"""A collection with enough judged queries to evaluate two tiny models on, some of them with markup; its
rationales are short.
"""

from __future__ import annotations

from pathlib import Path

from explorer_world import IMAGE, SCRIPT, World

from grace_core.collection import Collection
from grace_core.index import build
from grace_core.model import GraceModel
from grace_core.readers import Corpus, Document, Judgements

DOCUMENTS, QUERIES, TEST = 48, 30, 18


def make_judged(root: Path, new_model, sentences: list[str]) -> World:
    """``indexes/judged``: 48 documents, 30 queries, 18 of the split test, the others dev; no evaluation yet.

    Each query has its words from the document that it is about. ``indexes/unjudged`` has one column and no
    judgements."""
    world = World(root)
    documents = [
        Document(f"d{i:02}", f"Story {i}", f"{sentences[2 * i]} {sentences[2 * i + 1]}", {}) for i in range(DOCUMENTS)
    ]
    documents[0] = Document("d00", f"Marked {SCRIPT}", documents[0].text, {})
    queries = {f"q{i:02}": " ".join(sentences[2 * i].split()[:6]) for i in range(QUERIES)}
    queries |= {"q00": f"{IMAGE} {queries['q00']}", "q01": f"{SCRIPT} {queries['q01']}"}
    qrels = {f"q{i:02}": {f"d{i:02}": 2, f"d{i + 1:02}": 1} for i in range(QUERIES)}
    splits = {name: "test" if place < TEST else "dev" for place, name in enumerate(queries)}
    collection = Collection.create(
        Corpus(documents, Judgements(queries, qrels, splits), "made here", []), world.indexes / "judged"
    )
    for seed, name in enumerate(("tiny-a", "tiny-b")):
        new_model("qwen2", seed=seed, end_weight=0, max_new_tokens=8).save_pretrained(root / "models" / name)
        build(collection, GraceModel.from_pretrained(root / "models" / name, device="cpu"))
    plain = Corpus([Document(str(i), "", text, {}) for i, text in enumerate(sentences[100:104])], None, "made here", [])
    build(
        Collection.create(plain, world.indexes / "unjudged"),
        GraceModel.from_pretrained(world.model, device="cpu"),
        rationale=False,
    )
    return world


def add_slow(world: World, new_model, sentences: list[str]) -> None:
    """``indexes/slow``, whose 30 queries take long to evaluate: each rationale has 3,600 tokens."""
    folder = world.root / "models" / "tiny-slow"
    new_model("qwen2", end_weight=0, max_new_tokens=3600).save_pretrained(folder)
    queries = {f"q{i:02}": sentences[i] for i in range(30)}
    judgements = Judgements(queries, {name: {"a": 1} for name in queries}, {})
    documents = [Document(name, "", sentences[50 + place], {}) for place, name in enumerate("ab")]
    collection = Collection.create(Corpus(documents, judgements, "made here", []), world.indexes / "slow")
    build(collection, GraceModel.from_pretrained(folder, device="cpu"))
