"""Updating a large collection with a few changed documents, compared with building it.

Texts only. Of ``changed`` documents half have a new text, a quarter is new, and a quarter is removed. To build the
collection, ``documents`` texts have to be encoded: the model encodes ``sample`` of them, their time is scaled up,
and the time of a whole build with random sums is added. The update is real throughout: reading, comparing,
encoding new texts, writing, hashing, opening. Its files are compared byte for byte with a build of the new corpus
in another folder, and so are the answers to 50 queries. The ratio is the update's time over that of the first
build; the aim is at most 0.05.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from grace_core.build import FILES
from grace_core.cache import RepresentationCache
from grace_core.collection import Collection
from grace_core.files import sha256
from grace_core.index import GraceIndex, build
from grace_core.living import update
from grace_core.model import GraceModel, Representations
from grace_core.readers import Corpus, Document, read_corpus


def run(
    corpus: str | Path, *, model: str = "demo-base", documents: int = 100_000, changed: int = 1_000, sample: int = 1_000
) -> dict:
    """``{ratios, seconds, documents, changed, encoded, same_files, same_answers}``."""
    texts = [document.content for document in read_corpus(corpus).documents if document.content]
    # the number makes all texts distinct
    rows = [Document(f"d{i}", "", f"{texts[i % len(texts)]} {i}", {"number": i}) for i in range(documents)]
    new = _changed(rows, changed)
    known, seconds = {row.content for row in rows}, {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        loaded = GraceModel.from_pretrained(model, cache=RepresentationCache(folder / "cache.sqlite"))
        encode = _encoder(loaded, known)
        began = time.perf_counter()
        sampled = sorted((row.content for row in rows[:: max(1, documents // sample)]), key=len, reverse=True)
        GraceModel.from_pretrained(model).represent(sampled, rationale=False, batch_size=64)
        seconds["encoding"] = (time.perf_counter() - began) * documents / len(sampled)
        began = time.perf_counter()
        build(Collection.create(_corpus(rows), folder / "x"), loaded, rationale=False, encode=encode)
        seconds["first"] = seconds["encoding"] + time.perf_counter() - began
        began = time.perf_counter()
        with update(folder / "x", _corpus(new)) as pending:
            seconds["comparing"] = time.perf_counter() - began
            pending.build(loaded, rationale=False)
            pending.commit()
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
            "sample": len(sampled),
            "changed": pending.changes.counts(),
            "encoded": index.history[-1]["encoded"],
            "same_files": same,
            "same_answers": all(np.array_equal(ours, theirs) for ours, theirs in answers),
        }


def _changed(rows: list[Document], changed: int) -> list[Document]:
    """The next version: documents spread over the corpus have a new text or are removed, new ones are at the end."""
    quarter = changed // 4
    places = np.linspace(0, len(rows) - 1, 3 * quarter).astype(int).tolist()
    texts = {place: f"{rows[place].text} again" for number, place in enumerate(places) if number % 3}
    gone = set(places) - set(texts)
    kept = [replace(row, text=texts.get(place, row.text)) for place, row in enumerate(rows) if place not in gone]
    return kept + [Document(f"n{i}", "", f"{rows[i].text} new", {"number": i}) for i in range(quarter)]


def _encoder(model: GraceModel, known: set[str]) -> Callable:
    """An encoder for builds: random sums, seeded by a hash of the text, for ``known`` texts; the model for others."""

    def encode(jobs, tick):
        for number, shard in jobs:
            rows = [_random_row(text, model.dim) if text in known else None for text in shard]
            if unknown := [text for text, row in zip(shard, rows, strict=True) if row is None]:
                real = model.represent(unknown, rationale=False)
                encoded = iter(real[i : i + 1] for i in range(len(real)))
                rows = [next(encoded) if row is None else row for row in rows]
            arrays = ("sums", "counts", "truncated", "text_truncated")
            joined = {name: np.concatenate([getattr(row, name) for row in rows]) for name in arrays}
            yield number, Representations([""] * len(shard), [[] for _ in shard], **joined)

    return encode


def _random_row(text: str, dim: int) -> Representations:
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]))
    sums = np.zeros((1, 3, dim), np.float32)
    sums[0, :2] = rng.standard_normal((2, dim))
    return Representations([""], [[]], sums, np.array([[9, 5, 0]]), np.zeros(1, bool), np.zeros(1, bool))


def _corpus(documents: list[Document]) -> Corpus:
    return Corpus(documents, None, "synthetic", ["number"])
