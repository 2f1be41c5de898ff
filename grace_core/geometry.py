"""Vectors for ranking from stored part sums.

With S_p the sum and n_p the number of hidden states of part p (:mod:`grace_core.pooling`), for a text in the
role r (query or document):

    raw          z = sum over p of S_p, normalised: the mean over all pooled positions, as published
    otherwise    x_p = A_p (S_p / n_p - m_{r,p})
                 z = sum over p of w_p x_p / |x_p|, normalised

    centred      A_p = 1
    calibrated   A_p = D_p^-1, with D_p the documents' standard deviations, dimension by dimension
    whitened     A_p = D_p^-1 (R_p + s I)^(-1/2), with R_p their correlations and s three times the mean eigenvalue of R_p

m_{r,p} is a mean for each role, since queries and documents differ in length and style, and a common mean
leaves that difference in every score. The parts are normalised one by one, so that a longer part does not
outweigh the others. The template's states are pooled too, also without a rationale: they come after the text,
so they depend on all of it and predict what will be said about it. Measurements: docs/geometry.md.

All kinds are affine in the hidden states once the two norms are known, so a score still splits exactly: a
state h of part p contributes a_p A_p (h - m_{r,p}) with a_p = w_p / (n_p |x_p| |sum|), and these add up to z.
Raw has A_p = 1, m = 0 and a_p = 1 / |S|.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from grace_core.errors import GraceError
from grace_core.files import sha256, write_atomically
from grace_core.pooling import PARTS, RATIONALE, TEMPLATE, TEXT, Pooling, embeddings

DEFAULT = "calibrated"  # whitened is no better on eight collections, and needs matrices (docs/geometry.md)
KINDS = ("raw", "centred", "calibrated", "whitened")
WEIGHTS = (1.0, 1.0, 1.0)  # of text, template and rationale; chosen on training queries (docs/geometry.md)
SHRINKAGE = 3.0  # of the correlations towards the identity, in units of their mean eigenvalue
SAMPLE = 20_000  # documents that correlations are estimated from
FEW = 10  # documents at least for statistics, if the model has none of its own
DOCUMENTS = 30  # documents of a collection that weigh as much as the model's own statistics
QUERIES = 5  # queries of a collection that weigh as much as the mean that is assumed without them
SHIFT = 0.5  # share of the documents' shift from the model's own mean that is applied to the queries' mean
SMALLEST = 0.05  # least standard deviation, relative to the median, so that constant dimensions do not dominate
ROUNDING = 1e-5  # relative error of fp32 sums
FILE = "geometry.safetensors"  # a model's own statistics, beside its weights


Sums = tuple[np.ndarray, np.ndarray]  # part sums (n, 3, d) and counts (n, 3)


class Role(StrEnum):
    """The role of a text in a search; other embedding APIs call it the input type."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True)
class Statistics:
    """Means ``(2, 3, d)`` of the part means by role (query first), and the documents' variances ``(3, d)``, fp64.

    ``documents`` and ``queries`` are the numbers of texts that they were computed from; without queries the
    queries' means must not be used. ``system`` is the prompt of these texts: another one shifts the means.
    """

    means: np.ndarray
    variances: np.ndarray
    documents: int
    queries: int
    system: str = ""

    @classmethod
    def of(cls, documents: Sums, queries: Sums | None = None, *, system: str = "") -> Statistics:
        """Statistics from sums ``(n, 3, d)`` and counts ``(n, 3)`` of documents and, if there are any, of queries."""
        mean, variance = _moments(*documents)
        query_mean = mean if queries is None or not len(queries[0]) else _moments(*queries)[0]
        number = 0 if queries is None else len(queries[0])
        return cls(np.stack([query_mean, mean]), variance, len(documents[0]), number, system)

    @classmethod
    def average(cls, collections: Sequence[Statistics]) -> Statistics:
        """The mean of several collections' statistics, with equal weights; variances are about each collection's
        own mean.
        """
        return cls(
            np.mean([statistics.means for statistics in collections], axis=0),
            np.mean([statistics.variances for statistics in collections], axis=0),
            sum(statistics.documents for statistics in collections),
            sum(statistics.queries for statistics in collections),
            collections[0].system,
        )

    def save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        arrays = {"means": self.means.astype(np.float32), "variances": self.variances.astype(np.float32)}
        about = {"documents": str(self.documents), "queries": str(self.queries), "system": self.system}
        write_atomically(path, lambda target: save_file(arrays, target, metadata=about))

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Raises GraceError for a file that does not hold statistics."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata() or {}
                means, variances = (file.get_tensor(name).astype(np.float64) for name in ("means", "variances"))
            statistics = cls(means, variances, int(about["documents"]), int(about["queries"]), about.get("system", ""))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise GraceError(
                f"{path} holds no statistics of a geometry ({error}); make it again by `grace eval geometry`"
            ) from error
        if statistics.means.shape != (2, *statistics.variances.shape) or statistics.variances.shape[0] != len(PARTS):
            shapes = f"{statistics.means.shape} and {statistics.variances.shape}"
            raise GraceError(f"{path} has statistics of shapes {shapes}, expected (2, 3, d) and (3, d)")
        if not (np.isfinite(statistics.means).all() and np.isfinite(statistics.variances).all()):
            raise GraceError(f"{path} holds NaN or infinity; make it again by `grace eval geometry`")
        return statistics


def _moments(sums: np.ndarray, counts: np.ndarray, block: int = 8_192) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance ``(3, d)`` of the part means, over the rows that have the part; zeros if none has it."""
    total, square, number, pivot = np.zeros(sums.shape[1:]), np.zeros(sums.shape[1:]), np.zeros(len(PARTS)), None
    for start in range(0, len(sums), block):
        means, present = part_means(sums[start : start + block], counts[start : start + block])
        if pivot is None:  # squares about the first block's mean, which keeps the digits of outlier dimensions
            pivot = means.sum(axis=0) / present.sum(axis=0).clip(1)[:, None]
        apart = (means - pivot) * present[:, :, None]
        total, square, number = total + apart.sum(axis=0), square + (apart**2).sum(axis=0), number + present.sum(axis=0)
    if pivot is None:
        return total, square
    of = number.clip(1)[:, None]
    return (pivot + total / of) * (number > 0)[:, None], (square / of - (total / of) ** 2).clip(0)


def part_means(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean states ``(n, 3, d)`` fp64 of each part, zeros where a row lacks it, and which parts it has ``(n, 3)``."""
    return sums.astype(np.float64) / np.maximum(counts, 1)[:, :, None], counts > 0


@dataclass(frozen=True)
class Geometry:
    """A map from part sums to vectors.

    ``means`` ``(2, 3, d)`` by role, ``scale`` ``(3, d)``, or ``(3, d, d)`` if whitened; both None if raw.
    ``about`` says where the statistics come from, for manifests and for people."""

    kind: str = "raw"
    means: np.ndarray | None = None
    scale: np.ndarray | None = None
    weights: tuple[float, float, float] = WEIGHTS
    about: tuple[tuple[str, str | int], ...] = ()

    @property
    def is_raw(self) -> bool:
        return self.kind == "raw"

    def pooled_parts(self, pooling: Pooling) -> list[int]:
        """The parts of the vector; without a rationale raw leaves out the template, as published."""
        if pooling is Pooling.FULL:
            return [TEXT, TEMPLATE, RATIONALE]
        return [TEXT] if self.is_raw else [TEXT, TEMPLATE]

    def vectors(
        self, sums: np.ndarray, counts: np.ndarray, pooling: Pooling = Pooling.FULL, role: str = Role.DOCUMENT
    ) -> np.ndarray:
        """L2-normalised vectors ``(n, d)`` fp32 from sums ``(n, 3, d)`` and counts ``(n, 3)``.

        Raises GraceError for a row that has no vector: no token, a state that is not finite, or none that
        differs from the mean.
        """
        if self.is_raw:
            return embeddings(sums, counts, pooling)
        return self.parts(sums, counts, pooling, role).sum(axis=1).astype(np.float32)

    def parts(
        self, sums: np.ndarray, counts: np.ndarray, pooling: Pooling = Pooling.FULL, role: str = Role.DOCUMENT
    ) -> np.ndarray:
        """The contribution of each part to the vectors, ``(n, 3, d)`` fp64; zeros for parts that are not pooled.

        Errors as in :meth:`vectors`.
        """
        factors, pooled = self._factors(sums, counts, pooling, role)
        return pooled * factors[:, :, None]

    def _factors(self, sums, counts, pooling: Pooling, role: str) -> tuple[np.ndarray, np.ndarray]:
        """Factors ``(n, 3)`` and part vectors ``(n, 3, d)``, whose products sum to the unit vectors."""
        used = self.pooled_parts(pooling)
        factors = np.zeros(counts.shape, np.float64)
        if self.is_raw:
            pooled = sums.astype(np.float64)
            factors[:, used] = 1.0
        else:
            means, present = part_means(sums, counts)
            pooled = np.zeros(sums.shape, np.float64)
            for part in used:
                centred = means[:, part] - self._mean(role, part)
                pooled[:, part] = self._apply(part, centred)
                size = np.linalg.norm(pooled[:, part], axis=1)
                # a text that equals the mean leaves only rounding errors, which would be scaled to a vector of noise
                lasting = np.linalg.norm(centred, axis=1) > ROUNDING * np.linalg.norm(means[:, part], axis=1)
                lasting &= present[:, part] & (size > 0)
                factors[lasting, part] = self.weights[part] / size[lasting]
        norm = np.linalg.norm(np.einsum("npd,np->nd", pooled, factors), axis=1)
        if bad := np.flatnonzero(~np.isfinite(norm) | (norm < 1e-9)).tolist():
            raise GraceError(
                f"row {bad[0]} has no vector in the geometry {self.kind!r} ({len(bad)} such rows): a hidden state is not finite, "
                "or nothing of it differs from the mean; try dtype float32, or the geometry raw"
            )
        return factors / norm[:, None], pooled

    def _mean(self, role: str, part: int) -> np.ndarray:
        return self.means[list(Role).index(Role(role)), part]

    def _apply(self, part: int, centred: np.ndarray) -> np.ndarray:
        scale = self.scale[part]
        return centred * scale if scale.ndim == 1 else centred @ scale

    def tokens(
        self, states: np.ndarray, parts: np.ndarray, pooling: Pooling = Pooling.FULL, role: str = Role.DOCUMENT
    ) -> np.ndarray:
        """The contribution ``(t, d)`` fp64 of each token to the text's unit vector, from its state ``(t, d)`` and
        part ``(t,)``.
        """
        states = states.astype(np.float64)
        sums, counts = np.zeros((1, len(PARTS), states.shape[1])), np.zeros((1, len(PARTS)), np.int64)
        for part in range(len(PARTS)):
            sums[0, part], counts[0, part] = states[parts == part].sum(axis=0), (parts == part).sum()
        factors, _ = self._factors(sums, counts, pooling, role)
        contributions = np.zeros_like(states)
        for part in self.pooled_parts(pooling):
            in_part = parts == part
            if self.is_raw:
                contributions[in_part] = states[in_part] * factors[0, part]
            elif in_part.any():
                contributions[in_part] = self._apply(part, states[in_part] - self._mean(role, part)) * (
                    factors[0, part] / counts[0, part]
                )
        return contributions

    def groups(
        self,
        sums: np.ndarray,
        counts: np.ndarray,
        owners: np.ndarray,
        part: int,
        texts: Sums,
        pooling: Pooling = Pooling.FULL,
        role: str = Role.DOCUMENT,
    ) -> np.ndarray:
        """The contributions ``(g, d)`` fp64 of groups of one part's states to the unit vectors of their texts.

        ``sums`` ``(g, d)`` and ``counts`` ``(g,)`` are of each group's states, ``owners`` ``(g,)`` the rows
        of their texts in ``texts``.
        """
        factors, _ = self._factors(*texts, pooling, role)
        share = factors[owners, part][:, None]
        if self.is_raw:
            return sums.astype(np.float64) * share
        whole = np.maximum(texts[1][owners, part], 1)[:, None]
        return self._apply(part, (sums.astype(np.float64) - counts[:, None] * self._mean(role, part)) * (share / whole))

    def save(self, folder: Path) -> str:
        """Writes the arrays to ``folder`` in a file named by their hash, and returns its name; older files stay."""
        from safetensors.numpy import save

        data = save({"means": self.means.astype(np.float32), "scale": self.scale.astype(np.float32)})
        name = f"geometry-{hashlib.sha256(data).hexdigest()[:12]}.safetensors"
        write_atomically(folder / name, lambda path: path.write_bytes(data))
        return name

    def as_dict(self) -> dict:
        """The entry of a manifest: kind, weights, and where the statistics come from."""
        return {"kind": self.kind} | ({} if self.is_raw else {"weights": list(self.weights)} | dict(self.about))

    @classmethod
    def load(cls, folder: Path, stored: dict) -> Geometry:
        """The geometry of a manifest (:meth:`as_dict` with the file's name and hash).

        Raises GraceError if the file is missing or has another hash.
        """
        if stored.get("kind", "raw") == "raw":
            return RAW
        from safetensors.numpy import load_file

        path = folder / stored["file"]
        if not path.is_file() or sha256(path) != stored["sha256"]:
            raise GraceError(
                f"{path} is missing or was changed; `grace index geometry {folder.parent} --kind …` makes it again"
            )
        arrays = {name: array.astype(np.float64) for name, array in load_file(path).items()}
        about = {key: value for key, value in stored.items() if key not in ("kind", "weights", "file", "sha256")}
        return cls(stored["kind"], arrays["means"], arrays["scale"], tuple(stored["weights"]), tuple(about.items()))


RAW = Geometry()


def words(kind: str) -> str:
    """A sentence on how a score is computed in this kind of geometry."""
    if kind == "raw":
        return "A score is the cosine of the mean hidden states over text and rationale, as published."
    how = {
        "centred": "",
        "calibrated": ", divided by its spread",
        "whitened": ", divided by its spread and decorrelated",
    }[kind]
    return (
        "A score is the cosine of two calibrated vectors. Each is made of three parts, the text, the chat template's tokens behind it "
        f"and the rationale: of each the mean state, less what is usual for a query or for a document{how}, and brought to one length."
    )


def check_kind(kind: str) -> str:
    """``kind``; raises GraceError for an unknown one."""
    if kind not in KINDS:
        raise GraceError(f"geometry must be one of {', '.join(KINDS)}, got {kind!r}")
    return kind


def fit(
    kind: str,
    documents: Sums,
    *,
    model: Statistics | None = None,
    queries: Sums | None = None,
    weights: tuple[float, float, float] = WEIGHTS,
) -> Geometry:
    """The geometry of a collection from its documents' sums ``(n, 3, d)`` and counts ``(n, 3)``.

    ``model`` are the model's own statistics, a prior for the documents' (weighted as DOCUMENTS of them) and the
    queries' mean. ``queries`` are unlabelled queries of the collection, as sums and counts, with a prior of
    QUERIES. With neither, the queries' mean is that of the documents. Raises GraceError for fewer than FEW
    documents without ``model``, except for raw, which needs no statistics.
    """
    if check_kind(kind) == "raw":
        return RAW
    count = len(documents[0])
    if model is None and count < FEW:
        raise GraceError(
            f"{count} documents give no statistics to calibrate with, expected at least {FEW}, or a model with statistics of its own; "
            "use the geometry raw"
        )
    if model is not None and model.means.shape[-1] != documents[0].shape[-1]:
        dims = f"{model.means.shape[-1]} dimensions, its vectors {documents[0].shape[-1]}"
        raise GraceError(
            f"the model's statistics have {dims}: they are another model's; make them again by `grace eval geometry`"
        )
    own = Statistics.of(documents, queries)
    mean, variance, query_mean = own.means[1], own.variances, own.means[1]
    if model is not None:
        # a part that no document of the collection has gets the model's statistics
        share = np.where(documents[1].sum(axis=0) > 0, count / (count + DOCUMENTS), 0.0)[:, None]
        apart = mean - model.means[1]
        variance = share * variance + (1 - share) * model.variances + share * (1 - share) * apart**2
        mean = share * mean + (1 - share) * model.means[1]
        query_mean = model.means[0] + np.where(share > 0, SHIFT * apart, 0.0) if model.queries else mean
    if own.queries:
        share = own.queries / (own.queries + QUERIES)
        query_mean = share * own.means[0] + (1 - share) * query_mean
    about = (("documents", count), ("model_statistics", model is not None), ("queries", own.queries))
    scale = np.ones_like(variance) if kind == "centred" else _scale(variance)
    if kind == "whitened":
        scale = np.stack([_whitening(documents, part, mean[part], scale[part]) for part in range(len(PARTS))])
    return _rounded(kind, np.stack([query_mean, mean]), scale, weights, about)


def of_model(statistics: Statistics | None, weights: tuple[float, float, float] = WEIGHTS) -> Geometry:
    """The default geometry from a model's own statistics, for texts outside a collection; raw if it has none."""
    if statistics is None:
        return RAW
    about = (("documents", 0), ("model_statistics", True), ("queries", 0))
    return _rounded(DEFAULT, statistics.means, _scale(statistics.variances), weights, about)


def _rounded(
    kind: str, means: np.ndarray, scale: np.ndarray, weights: tuple[float, float, float], about: tuple
) -> Geometry:
    """A geometry rounded to the precision in which it is stored."""
    means, scale = (array.astype(np.float32).astype(np.float64) for array in (means, scale))
    return Geometry(kind, means, scale, weights, about)


def _scale(variance: np.ndarray) -> np.ndarray:
    """One over the standard deviations ``(3, d)``, bounded for dimensions that hardly vary and for parts that no
    text has.
    """
    deviation = np.sqrt(variance)
    middle = np.median(deviation, axis=1, keepdims=True)
    return 1 / np.where(middle > 0, np.maximum(deviation, SMALLEST * middle), np.maximum(deviation, 1.0))


def _whitening(documents: Sums, part: int, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The whitening matrix ``(d, d)`` of a part, estimated on at most SAMPLE documents spread over all.

    Dimensions are standardised first, since outlier dimensions would determine the shrinkage alone.
    """
    sums, counts = documents
    rows = (
        np.unique(np.linspace(0, len(sums) - 1, min(len(sums), SAMPLE)).astype(int)) if len(sums) else np.zeros(0, int)
    )
    scatter, number = np.zeros((len(mean), len(mean))), 0
    for start in range(0, len(rows), 4_096):
        means, present = part_means(sums[rows[start : start + 4_096]], counts[rows[start : start + 4_096]])
        apart = (means[present[:, part], part] - mean) * scale
        scatter, number = scatter + apart.T @ apart, number + len(apart)
    values, axes = np.linalg.eigh(scatter / max(1, number))
    values = values.clip(0)
    level = SHRINKAGE * values.mean() or 1.0
    return scale[:, None] * ((axes / np.sqrt(values + level)) @ axes.T)
