"""A GRACE model with MTEB 2's encoder interface, and a retrieval task from local data.

MTEB caches results by the model's name and revision. A GRACE model's results depend not only on its weights but
also on the prompt, the decoding settings, and whether the rationale is part of the embedding. All of these are
hashed into the revision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

try:
    import mteb
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.types import PromptType
except ImportError as error:
    raise ImportError("MTEB is not installed: pip install 'grace-explorer[mteb]'") from error

from grace_core.adapters.sentence import SentenceEncoder
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.evaluation.retrieval import judged_queries
from grace_core.geometry import Role
from grace_core.model import GraceModel

VERSION = 2  # increased when the same settings give other vectors


class MtebEncoder:
    """MTEB's encoder protocol.

    Takes a GraceModel, or what from_pretrained takes; ``rationale`` as in :class:`SentenceEncoder`.

    MTEB's instructions are not used: the representation prompt is the model's own.
    """

    def __init__(
        self,
        model: GraceModel | str,
        revision: str | None = None,
        *,
        rationale: bool = True,
        batch_size: int = 64,
        **options,
    ):
        if not isinstance(model, GraceModel):
            options["revision"] = revision
        self.encoder = SentenceEncoder(model, rationale=rationale, **options)
        self.batch_size = batch_size

    def encode(self, inputs: Iterable[dict[str, Any]], *, prompt_type: Any = None, **_: Any) -> np.ndarray:
        """Embeddings ``(n, d)`` of the texts in MTEB's batches, which are batched again by length.

        A text without a prompt type is a document, so that both sides of a symmetric task are treated alike."""
        role = Role.QUERY if prompt_type == PromptType.query else Role.DOCUMENT
        texts = [text for batch in inputs for text in _texts(batch)]
        return self.encoder.encode(texts, batch_size=self.batch_size, role=role)

    def similarity(self, a, b):
        return self.encoder.similarity(a, b)

    def similarity_pairwise(self, a, b):
        return self.encoder.similarity_pairwise(a, b)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        model = self.encoder.model
        return ModelMeta.create_empty(
            {
                "name": f"grace/{model.name}",
                "revision": revision_of(model, rationale=self.encoder.rationale),
                "embed_dim": model.dim,
                "max_tokens": self.encoder.max_seq_length,
                "similarity_fn_name": ScoringFunction.COSINE,
                "framework": ["PyTorch"],
                "open_weights": True,
                "use_instructions": False,
            }
        )


def _texts(batch: dict[str, Any]) -> list[str]:
    """The texts of a batch, with titles on their own line as in our indexes; MTEB would join them by a space."""
    if "title" in batch and "body" in batch:
        return [f"{title}\n{body}".strip() for title, body in zip(batch["title"], batch["body"], strict=True)]
    return batch["text"]


def revision_of(model: GraceModel, *, rationale: bool) -> str:
    """A hash, of 40 hexadecimal digits, over everything that an embedding depends on."""
    settings = asdict(model.settings)
    if not rationale:
        settings = {key: settings[key] for key in model.settings.prompt}
    elif not model.settings.temperature:
        settings |= {"seed": 0, "top_p": 1.0}  # without effect on greedy decoding
    statistics = model.statistics and hashlib.sha256(model.statistics.means.tobytes()).hexdigest()
    parts = [VERSION, statistics, model.fingerprint, model.dtype, model.engine_name, rationale, settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def local_retrieval_task(collection: Collection, *, split: str | None = None) -> AbsTaskRetrieval:
    """A retrieval task over a collection's documents and judged queries, of one split or of all; nothing is fetched.

    Raises GraceError for a collection without judgements, or without such a split.
    """
    queries = judged_queries(collection.judgements, split)
    qrels = {query: collection.judgements.qrels[query] for query in queries}
    version = hashlib.sha256(json.dumps([collection.hash, queries, qrels], sort_keys=True).encode()).hexdigest()[:40]

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="".join(c for c in collection.name.title() if c.isalnum()) + (split or "").title() + "Retrieval",
            description=f"Judged queries of the local collection {collection.name}.",
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            dataset={"path": "local", "revision": version},
            eval_splits=[split or "test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            from datasets import Dataset

            documents = [
                {"id": d.id, "title": d.title or "", "text": d.text} for d in collection.corpus.documents if d.content
            ]
            query_rows = [{"id": query, "text": text} for query, text in queries.items()]
            data = {
                "corpus": Dataset.from_list(documents),
                "queries": Dataset.from_list(query_rows),
                "relevant_docs": qrels,
                "top_ranked": None,
            }
            self.dataset, self.data_loaded = {"default": {split or "test": data}}, True

    return Local()


def named_tasks(names: Sequence[str]) -> list:
    """MTEB's own tasks, whose data it fetches from the Hugging Face hub.

    Raises GraceError for a name that it does not know.
    """
    try:
        return list(mteb.get_tasks(tasks=list(names)))
    except KeyError as error:
        raise GraceError(f"MTEB has no such task: {str(error.args[0])[:200]}") from error


def evaluate(model: MtebEncoder, tasks: Sequence, *, results: str | Path, progress: bool = False) -> dict[str, dict]:
    """Scores by task and split, ``{task: {split: {main_score, ndcg_at_10, …}}}``; cached below ``results``."""
    outcome = mteb.evaluate(model, tasks, cache=mteb.ResultCache(results), show_progress_bar=progress)
    return {task.task_name: {split: rows[0] for split, rows in task.scores.items()} for task in outcome.task_results}
