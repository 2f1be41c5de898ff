"""The calibrated geometry during training: the vectors of :mod:`grace_core.geometry` in torch, with gradient,
by running statistics.

    x_p = (S_p / n_p - m_{r,p}) / D_p,      z = sum over p of x_p / |x_p|, normalised

m and D move with the model. They begin as the starting model's own statistics, or as those of the first
batch, and follow every batch of rollouts: m ← m + MOMENTUM (mean of the batch - m), and the documents'
variances likewise, about the new mean. If the statistics stayed fixed, the model could earn reward by shifting
all vectors away from the old mean.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from grace_core.geometry import SMALLEST, Statistics
from grace_core.pooling import PARTS

MOMENTUM = 0.05
FILE = "calibration.safetensors"  # in a checkpoint
QUERY, DOCUMENT = range(2)  # rows of the means, as in Statistics


class Calibration:
    """Running means ``(2, 3, d)`` by role and variances ``(3, d)`` of the documents, fp32 on one device."""

    def __init__(self, statistics: Statistics | None, *, device="cpu", system: str = ""):
        self.system, self.documents, self.queries = system, 0, 0
        self.means = self.variances = None
        if statistics is not None:
            self._take(statistics, device)

    def _take(self, statistics: Statistics, device) -> None:
        arrays = statistics.means, statistics.variances
        self.means, self.variances = (torch.tensor(array, dtype=torch.float32, device=device) for array in arrays)

    @property
    def known(self) -> bool:
        """Whether there are statistics yet."""
        return self.means is not None

    def update(self, sums: Tensor, counts: Tensor, roles: Tensor) -> None:
        """Updates the statistics by part sums ``(n, 3, d)`` and counts ``(n, 3)`` of a batch with ``roles`` ``(n,)``."""
        with torch.no_grad():
            parts, present = _means(sums, counts)
            known = self.known
            if not known:
                self.means, self.variances = sums.new_zeros(2, *sums.shape[1:]), sums.new_zeros(sums.shape[1:])
            for role in (QUERY, DOCUMENT):
                members = (roles == role)[:, None] & present
                number = members.sum(dim=0)[:, None]
                mean = (parts * members[:, :, None]).sum(dim=0) / number.clamp(min=1)
                share = torch.where(number > 0, MOMENTUM if known else 1.0, 0.0)
                if role == DOCUMENT:
                    apart = (parts - self.means[role] - share * (mean - self.means[role])) * members[:, :, None]
                    self.variances = self.variances + share * (
                        (apart**2).sum(dim=0) / number.clamp(min=1) - self.variances
                    )
                self.means[role] += share * (mean - self.means[role])
            self.documents += int((roles == DOCUMENT).sum())
            self.queries += int((roles == QUERY).sum())

    def vectors(self, sums: Tensor, counts: Tensor, roles: Tensor) -> Tensor:
        """Unit vectors ``(n, d)`` from part sums ``(n, 3, d)`` and counts ``(n, 3)``; a part that a row lacks
        adds nothing.
        """
        parts, present = _means(sums, counts)
        deviation = self.variances.sqrt()
        middle = deviation.median(dim=1, keepdim=True).values
        scale = 1 / torch.where(middle > 0, deviation.maximum(SMALLEST * middle), deviation.clamp(min=1.0))
        centred = (parts - self.means[roles]) * scale
        return F.normalize((F.normalize(centred, dim=-1) * present[:, :, None]).sum(dim=1), dim=-1)

    def statistics(self) -> Statistics | None:
        """The running statistics in the form in which a model stores its own; None if there are none yet."""
        if not self.known:
            return None
        means, variances = (tensor.double().cpu().numpy() for tensor in (self.means, self.variances))
        return Statistics(means, variances, self.documents, self.queries, self.system)

    def save(self, folder: Path) -> None:
        self.statistics().save(folder / FILE)

    def load(self, folder: Path) -> None:
        """Replaces the statistics by those of a checkpoint."""
        statistics = Statistics.load(folder / FILE)
        self._take(statistics, self.means.device if self.known else "cpu")
        self.documents, self.queries = statistics.documents, statistics.queries


def raw_vectors(sums: Tensor, counts: Tensor) -> Tensor:
    """Normalised means ``(n, d)`` over all pooled positions, as published."""
    return F.normalize(sums.sum(dim=1) / counts.sum(dim=1, keepdim=True), dim=-1)


def part_sums(states: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
    """Sums ``(b, 3, d)`` in fp32 and counts ``(b, 3)`` of states ``(b, t, d)`` by part. ``parts`` ``(b, t)``
    gives 1 + the part of each position, 0 where it is not pooled.
    """
    masks = F.one_hot(parts.to(states.device).long(), len(PARTS) + 1)[:, :, 1:].float()
    return torch.einsum("btp,btd->bpd", masks, states.float()), masks.sum(dim=1)


def _means(sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    return sums / counts.clamp(min=1)[:, :, None], counts > 0
