"""Rewards from the embeddings of rollouts: the paper's terms, and the corrected objective. Pure functions.

Notation. A batch has B triplets (query q, positive d+, negative d-). K rationales ("rollouts") are sampled
for a text; z is an L2-normalised embedding, so that a dot product is a cosine. A group is the K rollouts of
one text; the policy gradient uses the advantage, reward minus the group's mean, so a term that is the same
for all rollouts of a group never reaches the gradient.

*Reference* (arXiv 2510.04506 as released; supervised). K rollouts for every d+, one for q and one for d-. For rollout k of triplet i:

    positive     cos(z_q_i, z_i^k)
    negative    -cos(z_q_i, z_d-_i)                                      same for all k: cancels
    consistency  mean over k' != k of cos(z_i^k, z_i^k')
    cross       -mean over j != i of max over k' of cos(z_q_i, z_j^k')   same for all k: cancels

    reward = (positive + negative + 0.2 consistency + 0.2 cross) / tau,  tau = 0.1;   -1 if cut off at the length limit

Unsupervised: q is the same text sampled once more; no negative; cross = -mean over j != i of cos(z_i^k,
z_q_j), which does vary with k.

*Symmetric* (default). Queries and positives are groups of K rollouts each; m(.) is the normalised mean of a text's rollouts:

    q rollout    log-softmax over all documents D (positives and negatives) of cos(z, m(D)) / t, at its own d+
    d+ rollout   log-softmax over the batch's queries of cos(z, m(q)) / t, at its own q

Every term varies within its group and is relative to the batch. Negatives are distractors only: a text does not
tell the policy that it is the negative, so a reward for being far from the queries would push every document
away from every query. Unsupervised, a text is its own partner: a rollout is scored by how well it picks the
mean of its own text's other rollouts among the mean rollouts of the batch's texts. A cut-off rollout ranks
below every finished one of its group (:func:`rank_truncated_last`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

REFERENCE_WEIGHTS = {"positive": 1.0, "negative": 1.0, "consistency": 0.2, "cross": 0.2}
REFERENCE_TAU = 0.1
REFERENCE_TRUNCATED = -1.0
SYMMETRIC_TEMPERATURE = 0.05


def group_mean(rollouts: Tensor) -> Tensor:
    """Normalised mean embeddings ``(b, d)`` of groups ``(b, k, d)``."""
    return F.normalize(rollouts.mean(dim=1), dim=-1)


def consistency(rollouts: Tensor) -> Tensor:
    """Mean cosine of each rollout with the others of its group: ``(b, k)`` from ``(b, k, d)``.

    Raises ValueError if k is 1.
    """
    k = rollouts.shape[1]
    if k < 2:
        raise ValueError("consistency compares the rollouts of a group, so a group needs at least 2, got 1")
    cosines = rollouts @ rollouts.transpose(1, 2)
    return (cosines.sum(dim=2) - cosines.diagonal(dim1=1, dim2=2)) / (k - 1)


def _mean_over_others(matrix: Tensor) -> Tensor:
    """Mean over j != i of ``matrix[i, ..., j]`` for a tensor ``(b, ..., b)``. Raises ValueError if b is 1."""
    b = matrix.shape[0]
    if b < 2:
        raise ValueError("the cross-group term compares the triplets of a batch, so a batch needs at least 2, got 1")
    own = matrix.diagonal(dim1=0, dim2=-1).movedim(-1, 0)
    return (matrix.sum(dim=-1) - own) / (b - 1)


def reference_terms(positives: Tensor, queries: Tensor, negatives: Tensor) -> dict[str, Tensor]:
    """The supervised reference terms, each ``(b, k)``: from positives' rollouts ``(b, k, d)``, queries and
    negatives ``(b, d)``.
    """
    b, k, _ = positives.shape
    hardest = torch.einsum("id,jkd->ijk", queries, positives).amax(dim=2)
    return {
        "positive": torch.einsum("bd,bkd->bk", queries, positives),
        "negative": -(queries * negatives).sum(dim=-1, keepdim=True).expand(b, k),
        "consistency": consistency(positives),
        "cross": -_mean_over_others(hardest)[:, None].expand(b, k),
    }


def reference_terms_unsupervised(rollouts: Tensor, queries: Tensor) -> dict[str, Tensor]:
    """The unsupervised reference terms, each ``(b, k)``: rollouts ``(b, k, d)``; queries ``(b, d)`` are the
    texts sampled once more.
    """
    return {
        "positive": torch.einsum("bd,bkd->bk", queries, rollouts),
        "consistency": consistency(rollouts),
        "cross": -_mean_over_others(torch.einsum("ikd,jd->ikj", rollouts, queries)),
    }


def reference_reward(terms: dict[str, Tensor], truncated: Tensor) -> Tensor:
    """Weighted sum over tau, ``(b, k)``; a cut-off rollout gets -1, as in the released code (some finished ones
    have less).
    """
    total = sum(REFERENCE_WEIGHTS[name] * term for name, term in terms.items()) / REFERENCE_TAU
    return torch.where(truncated, torch.full_like(total, REFERENCE_TRUNCATED), total)


def symmetric_terms(
    queries: Tensor, positives: Tensor, negatives: Tensor | None = None, *, temperature: float = SYMMETRIC_TEMPERATURE
) -> dict[str, Tensor]:
    """The symmetric terms ``{"query": (b, k), "document": (b, k)}`` from rollouts of queries and positives
    ``(b, k, d)``.

    ``negatives`` ``(n, k', d)`` are further documents of the batch, used as distractors. Values are
    log-probabilities, so at most 0. Raises ValueError for fewer than two documents.
    """
    documents = group_mean(positives)
    if negatives is not None:
        documents = torch.cat([documents, group_mean(negatives)])
    if len(documents) < 2:
        raise ValueError(
            "the symmetric reward picks a partner out of the batch, so it needs at least 2 documents, got 1"
        )
    own = torch.arange(len(queries), device=queries.device)

    def picks(rollouts: Tensor, candidates: Tensor) -> Tensor:
        scores = torch.log_softmax(rollouts @ candidates.T / temperature, dim=-1)
        return scores[own, :, own]

    return {"query": picks(queries, documents), "document": picks(positives, group_mean(queries))}


def symmetric_terms_unsupervised(rollouts: Tensor, *, temperature: float = SYMMETRIC_TEMPERATURE) -> dict[str, Tensor]:
    """The symmetric term of texts without queries, ``{"text": (b, k)}`` from rollouts ``(b, k, d)``.

    Log-softmax over the batch's texts of cos(z, m)/t at the own text, whose m is the mean of the other rollouts
    only. Raises ValueError for a batch of one text or a group of one rollout.
    """
    b, k, _ = rollouts.shape
    if b < 2 or k < 2:
        raise ValueError(
            f"a text is told apart by its other rollouts from other texts, so it needs at least 2 of both, got b={b}, k={k}"
        )
    cosines = rollouts @ group_mean(rollouts).T
    partners = F.normalize(rollouts.sum(dim=1, keepdim=True) - rollouts, dim=-1)
    own = torch.arange(b, device=rollouts.device)
    cosines[own, :, own] = (rollouts * partners).sum(dim=-1)
    return {"text": torch.log_softmax(cosines / temperature, dim=-1)[own, :, own]}


def rank_truncated_last(rewards: Tensor, truncated: Tensor, *, margin: float = 0.1) -> Tensor:
    """Rewards ``(b, k)`` with cut-off rollouts ``margin`` below the lowest finished one of their group.

    A group without any finished rollout gets equal rewards, so that none is preferred.
    """
    finished = rewards.masked_fill(truncated, float("inf")).amin(dim=1, keepdim=True)
    floor = torch.where(finished.isinf(), torch.zeros_like(finished), finished - margin)
    return torch.where(truncated, floor.expand_as(rewards), rewards)


def advantages(rewards: Tensor) -> Tensor:
    """Reward minus the mean of its group, ``(b, k)``; not divided by the standard deviation."""
    return rewards - rewards.mean(dim=1, keepdim=True)
