"""Taking a few changed documents into a large collection, against building it anew.

Texts only. Of ``changed`` documents half have a new text, a quarter is new, a quarter gone. The first build
would encode ``documents`` texts: the model encodes ``sample`` of them, which is scaled up, and to this the
time of a whole build whose sums are made up is added. The update is all real: reading, comparing, encoding
what is new, writing, hashing, opening. What it leaves is compared with a build of the new corpus in another
folder, byte for byte, and so are the answers to 50 queries. The ratio is the update's time over the first
build's: at most 0.05 is the aim.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from grace_core.cache import RepresentationCache
from grace_core.collection import Collection
from grace_core.files import sha256
from grace_core.index import FILES, GraceIndex, build
from grace_core.living import update
from grace_core.model import GraceModel, Representations
from grace_core.readers import Corpus, Document, read_corpus


def run(
    corpus: str | Path, *, model: str = "demo-base", documents: int = 100_000, changed: int = 1_000, sample: int = 1_000
) -> dict:
    """``{ratios, seconds, documents, changed, encoded, same_files, same_answers}``."""
    texts = [document.content for document in read_corpus(corpus).documents if document.content]
    rows = [
        Document(f"d{i}", "", f"{texts[i % len(texts)]} {i}", {"number": i}) for i in range(documents)
    ]  # no two have one text
    new = _changed(rows, changed)
    known, seconds = {row.content for row in rows}, {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        loaded = GraceModel.from_pretrained(model, cache=RepresentationCache(folder / "cache.sqlite"))
        encode = _encoder(loaded, known)
        began = time.perf_counter()
        some = sorted((row.content for row in rows[:: max(1, documents // sample)]), key=len, reverse=True)
        GraceModel.from_pretrained(model).represent(some, rationale=False, batch_size=64)
        seconds["encoding"] = (time.perf_counter() - began) * documents / len(some)
        began = time.perf_counter()
        build(Collection.create(_corpus(rows), folder / "x"), loaded, rationale=False, encode=encode)
        seconds["first"] = seconds["encoding"] + time.perf_counter() - began
        began = time.perf_counter()
        with update(folder / "x", _corpus(new)) as taken:
            seconds["comparing"] = time.perf_counter() - began
            taken.build(loaded, rationale=False)
            taken.commit()
        seconds["update"] = time.perf_counter() - began
        fresh = build(Collection.create(_corpus(new), folder / "fresh"), loaded, rationale=False, encode=encode)
        index = GraceIndex(folder / "x", loaded.name)
        same = [name for name in FILES if sha256(index.folder / name) == sha256(fresh.folder / name)]
        queries = index.embed(loaded.represent(texts[:50], rationale=False))
        answers = zip(index.search(queries, 100), fresh.search(queries, 100), strict=True)
        return {
            "ratios": {"update": round(seconds["update"] / seconds["first"], 4)},
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
            "documents": documents,
            "sample": len(some),
            "changed": taken.changes.counts(),
            "encoded": index.history[-1]["encoded"],
            "same_files": same,
            "same_answers": all(np.array_equal(mine, theirs) for mine, theirs in answers),
        }


def _changed(rows: list[Document], changed: int) -> list[Document]:
    """The next version: evenly over the corpus a new text or none, and at its end new documents."""
    quarter = changed // 4
    places = np.linspace(0, len(rows) - 1, 3 * quarter).astype(int).tolist()
    texts = {place: f"{rows[place].text} again" for number, place in enumerate(places) if number % 3}
    gone = set(places) - set(texts)
    kept = [replace(row, text=texts.get(place, row.text)) for place, row in enumerate(rows) if place not in gone]
    return kept + [Document(f"n{i}", "", f"{rows[i].text} new", {"number": i}) for i in range(quarter)]


def _encoder(model: GraceModel, known: set[str]) -> Callable:
    """Encodes by the model, and by a hash of the text what is ``known``."""

    def encode(jobs, tick):
        for number, shard in jobs:
            made = [_made_up(text, model.dim) if text in known else None for text in shard]
            if unknown := [text for text, one in zip(shard, made, strict=True) if one is None]:
                real = model.represent(unknown, rationale=False)
                rest = iter(real[i : i + 1] for i in range(len(real)))
                made = [next(rest) if one is None else one for one in made]
            arrays = ("sums", "counts", "truncated", "text_truncated")
            joined = {name: np.concatenate([getattr(one, name) for one in made]) for name in arrays}
            yield number, Representations([""] * len(shard), [[] for _ in shard], **joined)

    return encode


def _made_up(text: str, dim: int) -> Representations:
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]))
    sums = np.zeros((1, 3, dim), np.float32)
    sums[0, :2] = rng.standard_normal((2, dim))
    return Representations([""], [[]], sums, np.array([[9, 5, 0]]), np.zeros(1, bool), np.zeros(1, bool))


def _corpus(documents: list[Document]) -> Corpus:
    return Corpus(documents, None, "made here", ["number"])
