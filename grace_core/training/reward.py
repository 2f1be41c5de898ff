"""The reward of a batch of rollouts: part sums are gathered from all processes and scored by
:mod:`grace_core.rewards`.

TRL calls the reward object on every process with the local rows. The rows of all processes, one process after
the other, are the batch in the order of the dataset; the rewards of the whole batch are computed everywhere,
and each process returns its slice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grace_core import rewards
from grace_core.training import calibration as calibrated
from grace_core.training.calibration import Calibration, raw_vectors
from grace_core.training.config import TrainConfig
from grace_core.training.data import NEGATIVE, POSITIVE, QUERY, Layout
from grace_core.training.states import Sums

CONTENT_WORD = re.compile(r"[^\W\d_]{4,}")


@dataclass
class Scored:
    """A scored batch of n rollouts. ``rewards`` ``(n,)`` are 0 in roles that are not trained; a term is ``(b, k)``.

    ``partners`` holds, for each trained role, the normalised mean embeddings ``(m, d)`` that its rollouts are
    compared with; the right one for item i is row i.
    """

    embeddings: Tensor
    truncated: Tensor
    rewards: Tensor
    terms: dict[str, Tensor]
    partners: dict[str, Tensor]


def vectors(pooled: Sums, rows: Tensor, *, layout: Layout, calibration: Calibration | None) -> Tensor:
    """Unit vectors ``(n, d)`` of rollouts, whose numbers in the batch are ``rows`` ``(n,)``, in the geometry
    of the run.
    """
    if calibration is None:
        return raw_vectors(*pooled)
    return calibration.vectors(*pooled, text_roles(rows, layout))


def text_roles(rows: Tensor, layout: Layout) -> Tensor:
    """Whether each row of the batch is a query or a document, as the calibration counts them."""
    _, role = layout.place(rows)
    query = layout.roles.index(QUERY) if QUERY in layout.roles else -1
    return torch.where(role == query, calibrated.QUERY, calibrated.DOCUMENT)


def score(
    embeddings: Tensor, truncated: Tensor, *, layout: Layout, config: TrainConfig, bonus: Tensor | None = None
) -> Scored:
    """Rewards of a whole batch from embeddings ``(n, d)`` and ``truncated`` ``(n,)``, in the order of ``layout``.

    A ``bonus`` ``(n,)`` is added to the rewards, before cut-off rollouts are ranked last.
    """
    # the terms of the objective, and the reward of each trained role
    z, cut = layout.by_role(embeddings), layout.by_role(truncated)
    if config.share_negatives and NEGATIVE in z:
        z[NEGATIVE] = z[NEGATIVE][:, :1]
    partners: dict[str, Tensor] = {}
    if config.objective == "reference":
        # one rationale of query and negative, as in the released code: the first of the group
        first = {role: z[role][:, 0] for role in layout.roles if role != POSITIVE}
        if config.mode == "supervised":
            terms = rewards.reference_terms(z[POSITIVE], first[QUERY], first[NEGATIVE])
        else:
            terms = rewards.reference_terms_unsupervised(z[POSITIVE], first[QUERY])
        counted = {name: term for name, term in terms.items() if name not in config.without}
        earned = {POSITIVE: rewards.reference_reward(counted, cut[POSITIVE])}
    elif config.mode == "supervised":
        terms = rewards.symmetric_terms(z[QUERY], z[POSITIVE], z[NEGATIVE], temperature=config.reward_temperature)
        earned = {
            role: terms[name] for role, name in ((QUERY, "query"), (POSITIVE, "document")) if name not in config.without
        }
        means = {role: rewards.group_mean(z[role]) for role in layout.roles}
        partners = {QUERY: torch.cat([means[POSITIVE], means[NEGATIVE]]), POSITIVE: means[QUERY]}
    else:
        terms = rewards.symmetric_terms_unsupervised(z[POSITIVE], temperature=config.reward_temperature)
        earned = {POSITIVE: terms["text"]}
        partners = {POSITIVE: rewards.group_mean(z[POSITIVE])}
    # bonus and penalty
    if bonus is not None:
        added = layout.by_role(bonus)
        earned = {role: values + added[role] for role, values in earned.items()}
    if config.objective != "reference" and config.rank_truncated_last:
        earned = {role: rewards.rank_truncated_last(values, cut[role]) for role, values in earned.items()}
    elif config.truncation_penalty:
        earned = {role: values - config.truncation_penalty * cut[role] for role, values in earned.items()}
    zeros = torch.zeros_like(next(iter(earned.values())))  # a constant: its advantage is 0
    all_rewards = layout.flatten({role: earned.get(role, zeros) for role in layout.roles})
    return Scored(embeddings, truncated, all_rewards, terms, partners)


def measures(scored: Scored, lengths: Tensor, keys: Tensor, *, layout: Layout) -> dict[str, float]:
    """The logged figures of a batch's trained rollouts: rewards and terms, their spread within groups, lengths,
    and the shares of truncated and of distinct ones.
    """

    def of_trained(values: Tensor) -> Tensor:
        by_role = layout.by_role(values)
        return torch.stack([by_role[role] for role in layout.trained])

    trained, keys = of_trained(scored.rewards), of_trained(keys)
    advantage = trained - trained.mean(dim=-1, keepdim=True)
    figures = {
        "reward": trained.mean(),
        "reward_spread": trained.std(dim=-1).mean(),
        "advantage_std": advantage.std(),
        "truncated": of_trained(scored.truncated.float()).mean(),
        "rationale_tokens": of_trained(lengths.float()).mean(),
        "distinct": torch.tensor(keys.unique().numel() / keys.numel()),
    }
    for name, term in scored.terms.items():
        figures |= {f"term/{name}": term.mean(), f"term/{name}_spread": term.std(dim=-1).mean()}
    return {name: float(value) for name, value in figures.items()}


def novelty(text: str, rationale: str) -> float | None:
    """The share of a rationale's distinct content words, those of at least four letters, that its text lacks;
    None if it has none.
    """
    words = set(CONTENT_WORD.findall(rationale.lower()))
    return len(words - set(CONTENT_WORD.findall(text.lower()))) / len(words) if words else None


class GraceReward:
    """The reward function that TRL calls on every process; ``trainer`` is set by the trainer, whose model gives
    the embeddings.
    """

    __name__ = "grace"

    def __init__(self, config: TrainConfig, layout: Layout, calibration: Calibration | None = None):
        self.config, self.layout, self.calibration = config, layout, calibration
        self.trainer = None
        self.last: Scored | None = None

    @property
    def scoring(self) -> Calibration | None:
        """The statistics that rewards are computed with; None for raw cosines."""
        return None if self.config.reward_geometry else self.calibration

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], completion_ids: list[list[int]], log_metric, **_
    ) -> list[float]:
        gather = self.trainer.accelerator.gather
        rollouts = self.trainer.rollouts
        device = self.trainer.accelerator.device
        pooled = tuple(gather(part.contiguous()) for part in self.trainer.rollout_sums())
        numbers = torch.tensor([[r.truncated, len(r.ids), r.key] for r in rollouts], dtype=torch.long, device=device)
        numbers, rows = gather(numbers), torch.arange(len(pooled[0]), device=device)
        if self.calibration is not None:
            self.calibration.update(*pooled, text_roles(rows, self.layout))
        z = vectors(pooled, rows, layout=self.layout, calibration=self.scoring)
        new = [novelty(text, words) for text, words in zip(prompts, completions, strict=True)]
        shares = gather(
            torch.tensor([[value or 0.0, value is not None] for value in new], dtype=torch.float32, device=device)
        )
        bonus = self.config.novelty_weight * shares[:, 0] if self.config.novelty_weight else None
        self.last = score(z, numbers[:, 0].bool(), layout=self.layout, config=self.config, bonus=bonus)
        for name, value in measures(self.last, numbers[:, 1], numbers[:, 2], layout=self.layout).items():
            log_metric(name, value)
        log_metric("novelty", float(shares[:, 0].sum() / shares[:, 1].sum().clamp(min=1)))
        begin = self.trainer.accelerator.process_index * len(rollouts)
        return self.last.rewards[begin : begin + len(rollouts)].tolist()
