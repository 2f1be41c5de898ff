"""Collections to be mended: one judged corpus with an index in each geometry, built once and copied for every test."""

from __future__ import annotations

from pathlib import Path

from grace_core.collection import Collection
from grace_core.index import build
from grace_core.readers import Corpus

OTHER = "The river is cold in winter."
GEOMETRIES = ("raw", "calibrated")


def build_kinds(folder: Path, corpus: Corpus, model) -> Path:
    """``folder`` with a collection for each of GEOMETRIES, which has an index of ``model`` under the name "tiny"."""
    for kind in GEOMETRIES:
        build(Collection.create(corpus, folder / kind), model, geometry=kind, name="tiny")
    return folder
