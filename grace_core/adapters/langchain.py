"""LangChain's ``Embeddings`` with a GRACE model in this process; for a model behind a server use LangChain's
OpenAI class.
"""

from __future__ import annotations

try:
    from langchain_core.embeddings import Embeddings
except ImportError as error:
    raise ImportError("LangChain is not installed: pip install 'grace-explorer[langchain]'") from error

from grace_core.adapters.sentence import SentenceEncoder
from grace_core.model import GraceModel


class GraceEmbeddings(Embeddings):
    """Takes a GraceModel, or what from_pretrained takes; ``rationale`` and ``options`` as in
    :class:`SentenceEncoder`.
    """

    def __init__(self, model: GraceModel | str, *, rationale: bool = True, batch_size: int = 64, **options):
        self.encoder = SentenceEncoder(model, rationale=rationale, **options)
        self.batch_size = batch_size

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.encoder.encode(texts, batch_size=self.batch_size).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.encoder.encode_query(text).tolist()
