"""The demo corpus in BEIR layout, made from the fact base: passages, hand-written queries, graded judgements,
splits by thing.

Each thing has two passages, in different wordings and with different facts. The grade is 2 if the passage states
a fact that the query describes, and 1 if it is about the same thing only. Things, not queries, are split, so
that no thing of a test query occurs in training. All random choices are seeded: the same fact base gives the
same bytes.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from random import Random

from grace_core.sources import DEMO_CORPUS_DIR
from grace_study import text
from grace_study.factbase import Kind, Thing, load_kinds

SEED = 2510_04506
SPLITS = {"train": 0.6, "dev": 0.15, "test": 0.25}
MIN_WORDS, MAX_WORDS = 30, 90


@dataclass(frozen=True)
class Entry:
    """A thing with its kind, its slug (a part of its documents' ids) and its split."""

    slug: str
    thing: Thing
    kind: Kind
    split: str


def slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def entries(kinds: list[Kind] | None = None) -> list[Entry]:
    """All things with their split; within every kind the splits have the shares of SPLITS."""
    listed = []
    for kind in kinds if kinds is not None else load_kinds():
        order = list(range(len(kind.things)))
        Random(f"{SEED}-split-{kind.kind}").shuffle(order)
        train = round(SPLITS["train"] * len(order))
        dev = train + round(SPLITS["dev"] * len(order))
        for place, i in enumerate(order):
            split = "train" if place < train else "dev" if place < dev else "test"
            listed.append(Entry(slug(kind.things[i].name), kind.things[i], kind, split))
    return sorted(listed, key=lambda entry: entry.slug)


def passages(entry: Entry) -> list[dict]:
    """The two passages of a thing: ``{_id, title, text, kind, region, era, facts}``; ``facts`` are the 1-based
    numbers of the facts in it.
    """
    thing, kind = entry.thing, entry.kind
    rng = Random(f"{SEED}-passages-{entry.slug}")
    order = list(range(len(thing.facts)))
    rng.shuffle(order)
    second_title = rng.choice(["About {s}", "{n} in brief", "Notes on {s}", "{n}, a sketch"])
    plans = [("say", "{n}", order[:4], order[4:]), ("alt", second_title, order[3:], order[:3])]
    rows = []
    for number, (wording, title, numbers, spare) in enumerate(plans, start=1):
        while True:
            body = text.passage(thing, kind, [getattr(thing.facts[i], wording) for i in numbers], rng)
            words = len(body.split())
            if words < MIN_WORDS and spare:
                numbers.append(spare.pop(0))
            elif words > MAX_WORDS and len(numbers) > 2:
                numbers.pop()
            else:
                break
        rows.append(
            {
                "_id": f"{entry.slug}-{number}",
                "title": title.format(s=thing.subject, n=thing.name),
                "text": body,
                "kind": kind.kind,
                "region": thing.region,
                "era": thing.era,
                "facts": [i + 1 for i in sorted(numbers)],
            }
        )
    return rows


def beir(listed: list[Entry] | None = None) -> tuple[list[dict], list[dict], dict[str, list[tuple[str, str, int]]]]:
    """The corpus rows, the query rows, and the judgements ``(query id, document id, grade)`` of each split."""
    documents, queries, qrels = [], [], {split: [] for split in SPLITS}
    for entry in listed if listed is not None else entries():
        rows = passages(entry)
        documents += [{key: value for key, value in row.items() if key != "facts"} for row in rows]
        for number, query in enumerate(entry.thing.queries, start=1):
            query_id = f"q-{entry.slug}-{number}"
            queries.append({"_id": query_id, "text": query.q, "split": entry.split, "kind": entry.kind.kind})
            for row in rows:
                qrels[entry.split].append((query_id, row["_id"], 2 if set(query.facts) & set(row["facts"]) else 1))
    return documents, queries, qrels


def write(folder: Path = DEMO_CORPUS_DIR) -> dict[str, int]:
    """Write the corpus to ``folder`` in BEIR layout; returns the counts."""
    documents, queries, qrels = beir()
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for split, rows in qrels.items():
        lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in rows)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "documents": len(documents),
        "queries": len(queries),
        **{f"qrels_{split}": len(rows) for split, rows in qrels.items()},
    }
