"""Held-out retrieval during training: dev queries against their passages and a fixed sample of others, by the
live model.

With normalised embeddings z of queries q and their relevant documents d (Wang & Isola, arXiv 2005.10242):

    alignment  = mean over relevant pairs of |z_q - z_d|^2                         smaller is better
    uniformity = log mean over pairs of distinct documents of exp(-2 |z_i - z_j|^2)   smaller is better: spread over the sphere
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grace_core.errors import GraceError
from grace_core.evaluation.retrieval import CUTOFF, METRICS, Judged, per_query
from grace_core.geometry import Role, Statistics, fit
from grace_core.model import Representations
from grace_core.pooling import Pooling
from grace_core.readers import read_corpus
from grace_core.training.config import Evaluation
from grace_core.training.data import folders_of


@dataclass(frozen=True)
class HeldOut(Judged):
    """A sample of judged queries and documents, the probe texts, and ``notes`` on what the readers left out,
    changed or guessed.
    """

    probes: list[str]
    notes: list[str]

    @classmethod
    def read(cls, evaluation: Evaluation) -> list[HeldOut]:
        """A sample of each path, always the same: at most ``evaluation.queries`` queries, their relevant
        documents, and others up to ``evaluation.documents``."""
        return [cls._read(path, evaluation) for path in folders_of(evaluation.path)]

    @classmethod
    def _read(cls, path: Path, evaluation: Evaluation) -> HeldOut:
        corpus = read_corpus(path)
        try:
            sample = Judged.sample(
                corpus, split=evaluation.split, queries=evaluation.queries, documents=evaluation.documents
            )
        except GraceError as error:
            raise GraceError(f"evaluation.path {path}: {error}") from None
        half = (evaluation.probes + 1) // 2
        probes = [*list(sample.queries.values())[:half], *list(sample.documents.values())[: evaluation.probes - half]]
        return cls(sample.queries, sample.documents, sample.qrels, probes, corpus.notes)

    @property
    def texts(self) -> list[str]:
        return [*self.queries.values(), *self.documents.values(), *self.probes]

    def evaluate(
        self,
        representations: Representations,
        *,
        rationale: bool,
        statistics: Statistics | None = None,
        kind: str = "raw",
    ) -> tuple[dict[str, float], list[dict]]:
        """Scores of the representations of ``texts`` in the geometry ``kind``, and the probes with their
        rationales. ``statistics`` are the model's, for the calibrated geometry.

        Without ``rationale`` only the texts are pooled, and there are no probes.
        """
        pooling = Pooling.FULL if rationale else Pooling.TEXT
        m, n = len(self.queries), len(self.documents)
        documents = representations.sums[m : m + n], representations.counts[m : m + n]
        geometry = fit(kind, documents, model=statistics)
        queries = geometry.vectors(representations.sums[:m], representations.counts[:m], pooling, Role.QUERY)
        scores = self.scores(queries, geometry.vectors(*documents, pooling))
        if not rationale:
            return scores, []
        scores |= {
            "rationale_tokens": float(representations.counts[: m + n, 2].mean()),
            "truncated": float(representations.truncated[: m + n].mean()),
        }
        probes = [
            {"text": text, "rationale": words}
            for text, words in zip(self.probes, representations.rationales[m + n :], strict=True)
        ]
        return scores, probes

    def metrics(self, queries: np.ndarray, documents: np.ndarray) -> dict[str, np.ndarray]:
        """Retrieval metrics of every query from normalised embeddings, in the order of the ids."""
        ids = list(self.documents)
        best = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :CUTOFF]
        rankings = {query: [ids[row] for row in rows] for query, rows in zip(self.queries, best, strict=True)}
        return per_query(rankings, self.qrels)

    def scores(self, queries: np.ndarray, documents: np.ndarray) -> dict[str, float]:
        """Mean retrieval metrics, alignment and uniformity from normalised embeddings, in the order of the ids."""
        ids = list(self.documents)
        cosines = queries @ documents.T
        values = self.metrics(queries, documents)
        row = {document: place for place, document in enumerate(ids)}
        relevant = [cosines[i, row[document]] for i, query in enumerate(self.queries) for document in self.qrels[query]]
        pairs = np.triu_indices(len(documents), k=1)
        squared = 2 - 2 * (documents @ documents.T)[pairs]
        return {
            **{metric: float(values[metric].mean()) for metric in METRICS},
            "alignment": float(2 - 2 * np.mean(relevant)),
            "uniformity": float(np.log(np.mean(np.exp(-2 * squared)))) if len(squared) else 0.0,
        }
