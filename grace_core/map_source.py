"""What the map of a column is made of: the vectors of a model's index or of a sentence encoder, the words that name
its regions, and the file that it is kept in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grace_core.collection import Collection
from grace_core.columns.encoded import EncodedIndex, encoder_name
from grace_core.columns.names import ENCODER
from grace_core.index import GraceIndex
from grace_core.pooling import Pooling


def open_index(collection: Collection, model: str) -> GraceIndex | EncodedIndex:
    """The index of a model, or as ``st:NAME`` the vectors of a sentence encoder; each by its name in the
    collection, or by the id or path that it was built from. Raises GraceError.
    """
    if model.startswith(ENCODER) and model not in collection.models:
        name = model.removeprefix(ENCODER)
        return EncodedIndex(collection, encoder_name(collection, name) or name)
    return GraceIndex.of_model(collection, model)


@dataclass(frozen=True)
class Source:
    """What the map of a column is made of and kept beside: a model's index by a pooling (None: its default), or
    the vectors of a sentence encoder, which have no poolings.
    """

    index: GraceIndex | EncodedIndex
    pooling: Pooling | None = None

    @property
    def default_pooling(self) -> Pooling:
        """Of an encoder, which reads no rationales, Pooling.TEXT."""
        return Pooling.TEXT if isinstance(self.index, EncodedIndex) else self.index.default_pooling

    @property
    def text_beside_rationales(self) -> bool:
        """Whether it is the text alone of an index with rationales, which has a map of its own."""
        return self.pooling is Pooling.TEXT and self.default_pooling is not Pooling.TEXT

    @property
    def name(self) -> str:
        """``MODEL``, ``MODEL:text`` for the texts alone of an index with rationales, or ``st:NAME``."""
        if isinstance(self.index, EncodedIndex):
            return ENCODER + self.index.name
        return self.index.model_name + (":text" if self.text_beside_rationales else "")

    @property
    def ids(self) -> list[str]:
        if isinstance(self.index, EncodedIndex):
            return [document.id for document in self.index.collection.corpus.documents if document.content]
        return self.index.ids

    @property
    def vectors(self) -> np.ndarray:
        """``(n, d)`` fp32."""
        if isinstance(self.index, EncodedIndex):
            return self.index.vectors
        return self.index.vectors(self.pooling)

    def said(self) -> list[str]:
        """What names its regions: the rationales, or the texts where it has none."""
        if isinstance(self.index, GraceIndex) and not self.text_beside_rationales and any(self.index.rationales):
            return self.index.rationales
        return [self.index.collection.documents[document_id].content for document_id in self.ids]

    def path(self, dims: int = 2) -> Path:
        """Where its map is kept."""
        text, depth = "-text" if self.text_beside_rationales else "", "-3d" if dims == 3 else ""
        return self.index.folder / f"map{text}{depth}.parquet"
