"""Indexes with rationales that a test chooses: texts and rationales go through a real model, nothing is generated."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from grace_core.collection import Collection
from grace_core.index import GraceIndex, build
from grace_core.model import GraceModel
from grace_core.readers import Corpus, Document, Judgements

RIVER = "The text tells of a river. It flows through a deep valley."
METAL = "The text tells of a metal. It melts at a high heat."
OPERA = "The text tells of an opera. It was sung in the city."
KINDS = (RIVER, METAL, OPERA)


def build_given(
    folder: Path,
    model: GraceModel,
    texts: list[str],
    rationales: list[str],
    *,
    geometry: str = "raw",
    judgements: Judgements | None = None,
    metadata: list[dict] | None = None,
) -> GraceIndex:
    """An index of ``texts`` in which each has the given rationale."""
    documents = [Document(f"d{i}", "", text, metadata[i] if metadata else {}) for i, text in enumerate(texts)]
    given = dict(zip(texts, rationales, strict=True))

    def encode(jobs, tick):
        for number, shard in jobs:
            yield number, model.represent_given(shard, [given[text] for text in shard])

    return build(
        Collection.create(
            Corpus(documents, judgements, "test", sorted({name for row in metadata or [] for name in row})), folder
        ),
        model,
        geometry=geometry,
        encode=encode,
    )


def numbered_texts(sentences: list[str], number: int) -> list[str]:
    return [f"{sentences[i % 300]} {sentences[(3 * i + 50) % 300]} Number {i}." for i in range(number)]


def kinds_of(number: int) -> np.ndarray:
    return np.arange(number) % len(KINDS)


def stop_after(times: int):
    """A ``should_stop`` that says so when it is asked once more than so many times."""
    left = iter([False] * times)
    return lambda: next(left, True)
