"""Held-out retrieval during training: dev queries against their passages and a fixed sample of others, by the live model.

With normalised embeddings z of queries q and their relevant documents d (Wang & Isola, arXiv 2005.10242):

    alignment  = mean over relevant pairs of |z_q - z_d|^2                         smaller is better
    uniformity = log mean over pairs of distinct documents of exp(-2 |z_i - z_j|^2)   smaller is better: spread over the sphere
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from grace_core.errors import GraceError
from grace_core.evaluation.retrieval import CUTOFF, METRICS, judged_queries, per_query
from grace_core.geometry import Role, Statistics, fit
from grace_core.model import Representations
from grace_core.pooling import Pooling
from grace_core.readers import read_corpus
from grace_core.training.config import Evaluation
from grace_core.training.data import folders_of


@dataclass(frozen=True)
class HeldOut:
    """Queries and documents by id, judgements among them, and the probe texts."""

    queries: dict[str, str]
    documents: dict[str, str]
    qrels: dict[str, dict[str, int]]
    probes: list[str]

    @classmethod
    def read(cls, evaluation: Evaluation) -> list[HeldOut]:
        """Of each path at most ``evaluation.queries`` queries, their relevant documents, and others up to ``evaluation.documents``; always
        the same."""
        return [cls._read(path, evaluation) for path in folders_of(evaluation.path)]

    @classmethod
    def _read(cls, path: Path, evaluation: Evaluation) -> HeldOut:
        corpus = read_corpus(path)
        try:
            found = judged_queries(corpus.judgements, evaluation.split)
        except GraceError as error:
            raise GraceError(f"evaluation.path {Path(path)}: {error}") from None
        rng = Random(0)
        chosen = sorted(rng.sample(sorted(found), min(evaluation.queries, len(found))))
        texts = {document.id: document.content for document in corpus.documents if document.content}
        qrels = {query: {d: g for d, g in corpus.judgements.qrels[query].items() if g > 0 and d in texts} for query in chosen}
        qrels = {query: grades for query, grades in qrels.items() if grades}
        if not qrels:
            raise GraceError(f"evaluation.path {path}: no query of split {evaluation.split!r} has a relevant document with a text")
        needed = {document for grades in qrels.values() for document in grades}
        others = sorted(set(texts) - needed)
        needed |= set(rng.sample(others, min(len(others), max(0, evaluation.documents - len(needed)))))
        queries = {query: found[query] for query in qrels}
        half = (evaluation.probes + 1) // 2
        probes = [*list(queries.values())[:half], *[texts[document] for document in sorted(needed)[: evaluation.probes - half]]]
        return cls(queries, {document: texts[document] for document in sorted(needed)}, qrels, probes)

    @property
    def texts(self) -> list[str]:
        return [*self.queries.values(), *self.documents.values(), *self.probes]

    def evaluate(
        self, made: Representations, *, rationale: bool, statistics: Statistics | None = None, kind: str = "raw"
    ) -> tuple[dict[str, float], list[dict]]:
        """Scores of the representations of ``texts`` in a geometry, for which the model has ``statistics``, and the probes with their
        rationales.

        Without ``rationale`` the texts alone are pooled, and there is nothing to probe.
        """
        pooling = Pooling.FULL if rationale else Pooling.TEXT
        m, n = len(self.queries), len(self.documents)
        documents = made.sums[m : m + n], made.counts[m : m + n]
        geometry = fit(kind, documents, model=statistics)
        queries = geometry.vectors(made.sums[:m], made.counts[:m], pooling, Role.QUERY)
        scores = self.scores(queries, geometry.vectors(*documents, pooling))
        if not rationale:
            return scores, []
        scores |= {"rationale_tokens": float(made.counts[: m + n, 2].mean()), "truncated": float(made.truncated[: m + n].mean())}
        probes = [{"text": text, "rationale": words} for text, words in zip(self.probes, made.rationales[m + n :], strict=True)]
        return scores, probes

    def per_query(self, queries: np.ndarray, documents: np.ndarray) -> dict[str, np.ndarray]:
        """Retrieval metrics of every query from normalised embeddings, in the order of the ids."""
        ids = list(self.documents)
        best = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :CUTOFF]
        rankings = {query: [ids[row] for row in rows] for query, rows in zip(self.queries, best, strict=True)}
        return per_query(rankings, self.qrels)

    def scores(self, queries: np.ndarray, documents: np.ndarray) -> dict[str, float]:
        """Mean retrieval metrics, alignment and uniformity from normalised embeddings, in the order of the ids."""
        ids = list(self.documents)
        cosines = queries @ documents.T
        values = self.per_query(queries, documents)
        row = {document: place for place, document in enumerate(ids)}
        relevant = [cosines[i, row[document]] for i, query in enumerate(self.queries) for document in self.qrels[query]]
        pairs = np.triu_indices(len(documents), k=1)
        squared = 2 - 2 * (documents @ documents.T)[pairs]
        return {
            **{metric: float(values[metric].mean()) for metric in METRICS},
            "alignment": float(2 - 2 * np.mean(relevant)),
            "uniformity": float(np.log(np.mean(np.exp(-2 * squared)))) if len(squared) else 0.0,
        }
