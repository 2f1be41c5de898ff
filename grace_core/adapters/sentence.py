"""A GRACE model with the methods of a ``SentenceTransformer``, for code that was written for one.

Differences: vectors are always normalised, a text without content has the zero vector (sentence-transformers
embeds its markup), and there are no named prompts, since the representation prompt belongs to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch

from grace_core.errors import GraceError
from grace_core.geometry import Role
from grace_core.model import GraceModel
from grace_core.texts import as_texts


class SentenceEncoder:
    """An embedding model with ``encode``, ``similarity`` and the like.

    Takes a GraceModel, or what from_pretrained takes.

    Without ``rationale`` the text alone is embedded. ``options`` are those of :meth:`GraceModel.from_pretrained`.
    """

    similarity_fn_name = "cosine"

    def __init__(self, model: GraceModel | str, *, rationale: bool = True, **options):
        if isinstance(model, GraceModel) and options:
            raise GraceError(f"a model that is loaded already takes no options, got {', '.join(options)}")
        self.model = model if isinstance(model, GraceModel) else GraceModel.from_pretrained(model, **options)
        self.rationale = rationale

    @property
    def device(self) -> torch.device:
        return self.model.engine.device

    @property
    def max_seq_length(self) -> int:
        """The number of tokens of a text that fit into the prompt; a longer text is cut."""
        return self.model.prompts.room

    def get_embedding_dimension(self) -> int:
        return self.model.dim

    def get_sentence_embedding_dimension(self) -> int:
        """The older name of :meth:`get_embedding_dimension`."""
        return self.model.dim

    @overload
    def encode(self, inputs: str, **options) -> np.ndarray | torch.Tensor: ...
    @overload
    def encode(self, inputs: Sequence[str], **options) -> np.ndarray | torch.Tensor: ...

    def encode(
        self,
        inputs,
        *,
        batch_size: int = 64,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = True,
        role: str = Role.DOCUMENT,
    ):
        """Embeddings ``(n, d)`` fp32 of a sequence of texts, ``(d,)`` of a single one; as a tensor with
        ``convert_to_tensor``.

        ``role`` is query or document, which differ where the model's geometry is calibrated. ``normalize_embeddings``
        is accepted for compatibility; vectors are always normalised. Raises GraceError for a value that is no text.
        """
        texts = [inputs] if isinstance(inputs, str) else as_texts(inputs)
        filled = [i for i, text in enumerate(texts) if not isinstance(text, str) or text.strip("\x00 \t\r\n")]
        vectors = np.zeros((len(texts), self.model.dim), np.float32)
        if filled:
            options = {"role": role, "batch_size": batch_size, "progress": bool(show_progress_bar)}
            vectors[filled] = self.model.encode([texts[i] for i in filled], rationale=self.rationale, **options)
        vectors = vectors[0] if isinstance(inputs, str) else vectors
        return torch.from_numpy(vectors) if convert_to_tensor or not convert_to_numpy else vectors

    encode_document = encode

    def encode_query(self, inputs, **options):
        """As :meth:`encode`, for queries of a search."""
        return self.encode(inputs, **options, role=Role.QUERY)

    def similarity(self, a, b) -> torch.Tensor:
        """Cosine similarities ``(len(a), len(b))``."""
        return _rows(a) @ _rows(b).T

    def similarity_pairwise(self, a, b) -> torch.Tensor:
        """Cosine similarities ``(n,)`` of the i-th of both."""
        return (_rows(a) * _rows(b)).sum(-1)


def _rows(vectors) -> torch.Tensor:
    """Normalised rows ``(n, d)``; a zero vector stays one."""
    return torch.nn.functional.normalize(
        torch.as_tensor(vectors).float().reshape(-1, torch.as_tensor(vectors).shape[-1]), dim=-1
    )
