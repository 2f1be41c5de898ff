"""From stored part sums to the vector that ranks.

With S_p the sum and n_p the number of hidden states of part p (:mod:`grace_core.pooling`), for a text in the
role r (query or document):

    raw          z = sum over p of S_p, normalised: the mean over all pooled positions, as published
    otherwise    x_p = A_p (S_p / n_p - m_{r,p})
                 z = sum over p of w_p x_p / |x_p|, normalised

    centred      A_p = 1
    calibrated   A_p = D_p^-1, with D_p the documents' standard deviations, dimension by dimension
    whitened     A_p = D_p^-1 (R_p + s I)^(-1/2), with R_p their correlations and s three times the mean eigenvalue of R_p

m_{r,p} is a mean for each role, since queries and documents differ in length and style, and a common mean
leaves that difference in every score. The parts are normalised one by one, so that the longer one does not
drown the others. The template's states are pooled too, also where there is no rationale: they stand behind
the text, so they have read all of it and are about to say what it is about. Why all this is worth more than
most training: docs/geometry.md.

All of them are affine in the hidden states once the two norms are known, so a score still splits exactly: a
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

DEFAULT = "calibrated"  # whitened is not told apart from it on eight collections, and needs matrices (docs/geometry.md)
KINDS = ("raw", "centred", "calibrated", "whitened")
WEIGHTS = (1.0, 1.0, 1.0)  # of text, template and rationale; chosen on training queries (docs/geometry.md)
SHRINKAGE = 3.0  # of the correlations to the identity, in units of their mean eigenvalue
SAMPLE = 20_000  # documents that correlations are taken from
FEW = 10  # documents: statistics of fewer, without any of the model's own, would be noise
DOCUMENTS = 30  # documents of the collection that count as much as the model's own statistics
QUERIES = 5  # queries of the collection that count as much as what is known without them
SHIFT = 0.5  # how much of the documents' shift against the model's own statistics the queries' mean follows
SMALLEST = 0.05  # of the median standard deviation: a dimension that hardly varies must not outweigh all others
ROUNDING = 1e-5  # of fp32 sums
FILE = "geometry.safetensors"  # a model's own statistics, beside its weights


Sums = tuple[np.ndarray, np.ndarray]  # part sums (n, 3, d) and counts (n, 3)


class Role(StrEnum):
    """What a text is in a search; other embedding APIs call it the input type."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True)
class Statistics:
    """Means ``(2, 3, d)`` of the part means by role (query first), and the documents' variances ``(3, d)``, fp64.

    ``documents`` and ``queries`` are the numbers of texts behind them; where there were no queries their
    means are not to be used. ``system`` is the prompt that they were made with: another one moves them.
    """

    means: np.ndarray
    variances: np.ndarray
    documents: int
    queries: int
    system: str = ""

    @classmethod
    def of(cls, documents: Sums, queries: Sums | None = None, *, system: str = "") -> Statistics:
        """From sums ``(n, 3, d)`` and counts ``(n, 3)`` of documents and, if there are any, of queries."""
        mean, variance = _moments(*documents)
        asked = mean if queries is None or not len(queries[0]) else _moments(*queries)[0]
        number = 0 if queries is None else len(queries[0])
        return cls(np.stack([asked, mean]), variance, len(documents[0]), number, system)

    @classmethod
    def average(cls, found: Sequence[Statistics]) -> Statistics:
        """Several collections' statistics, each counting the same; their documents' spread is that about each
        one's own mean.
        """
        return cls(
            np.mean([one.means for one in found], axis=0),
            np.mean([one.variances for one in found], axis=0),
            sum(one.documents for one in found),
            sum(one.queries for one in found),
            found[0].system,
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
            made = cls(means, variances, int(about["documents"]), int(about["queries"]), about.get("system", ""))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise GraceError(
                f"{path} holds no statistics of a geometry ({error}); make it again by `grace eval geometry`"
            ) from error
        if made.means.shape != (2, *made.variances.shape) or made.variances.shape[0] != len(PARTS):
            shapes = f"{made.means.shape} and {made.variances.shape}"
            raise GraceError(f"{path} has statistics of shapes {shapes}, expected (2, 3, d) and (3, d)")
        if not (np.isfinite(made.means).all() and np.isfinite(made.variances).all()):
            raise GraceError(f"{path} holds NaN or infinity; make it again by `grace eval geometry`")
        return made


def _moments(sums: np.ndarray, counts: np.ndarray, block: int = 8_192) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance ``(3, d)`` of the part means, over the rows that have the part; zeros for a part that
    nobody has.
    """
    total, square, number, pivot = np.zeros(sums.shape[1:]), np.zeros(sums.shape[1:]), np.zeros(len(PARTS)), None
    for start in range(0, len(sums), block):
        means, there = part_means(sums[start : start + block], counts[start : start + block])
        if pivot is None:  # squares are taken about the first block's mean: outlier dimensions would lose their digits
            pivot = means.sum(axis=0) / there.sum(axis=0).clip(1)[:, None]
        apart = (means - pivot) * there[:, :, None]
        total, square, number = total + apart.sum(axis=0), square + (apart**2).sum(axis=0), number + there.sum(axis=0)
    if pivot is None:
        return total, square
    of = number.clip(1)[:, None]
    return (pivot + total / of) * (number > 0)[:, None], (square / of - (total / of) ** 2).clip(0)


def part_means(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean states ``(n, 3, d)`` fp64 of each part, zeros where a row lacks it, and which parts are there ``(n, 3)``."""
    return sums.astype(np.float64) / np.maximum(counts, 1)[:, :, None], counts > 0


@dataclass(frozen=True)
class Geometry:
    """One way from part sums to vectors.

    ``means`` ``(2, 3, d)`` by role, ``scale`` ``(3, d)``, or ``(3, d, d)`` where it is whitened; both are
    None where it is raw. ``about`` says where the statistics come from, for manifests and for people."""

    kind: str = "raw"
    means: np.ndarray | None = None
    scale: np.ndarray | None = None
    weights: tuple[float, float, float] = WEIGHTS
    about: tuple[tuple[str, str | int], ...] = ()

    @property
    def is_raw(self) -> bool:
        return self.kind == "raw"

    def pooled_parts(self, pooling: Pooling) -> list[int]:
        """The parts that make the vector: raw leaves the template out where there is no rationale, as published."""
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
        """What each part adds to the vectors, ``(n, 3, d)`` fp64; a part that is not pooled adds zeros.

        Errors as in :meth:`vectors`.
        """
        factors, pooled = self._factors(sums, counts, pooling, role)
        return pooled * factors[:, :, None]

    def _factors(self, sums, counts, pooling: Pooling, role: str) -> tuple[np.ndarray, np.ndarray]:
        """Factors ``(n, 3)`` and part vectors ``(n, 3, d)`` whose products add up to the unit vectors."""
        used = self.pooled_parts(pooling)
        factors = np.zeros(counts.shape, np.float64)
        if self.is_raw:
            pooled = sums.astype(np.float64)
            factors[:, used] = 1.0
        else:
            means, there = part_means(sums, counts)
            pooled = np.zeros(sums.shape, np.float64)
            for part in used:
                centred = means[:, part] - self._mean(role, part)
                pooled[:, part] = self._apply(part, centred)
                size = np.linalg.norm(pooled[:, part], axis=1)
                # what is left of a text that equals the mean is rounding, and would be blown up to a vector of noise
                lasting = np.linalg.norm(centred, axis=1) > ROUNDING * np.linalg.norm(means[:, part], axis=1)
                lasting &= there[:, part] & (size > 0)
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
        """What each token's state ``(t, d)``, with the part of each ``(t,)``, adds to the text's unit vector:
        ``(t, d)`` fp64.
        """
        states = states.astype(np.float64)
        sums, counts = np.zeros((1, len(PARTS), states.shape[1])), np.zeros((1, len(PARTS)), np.int64)
        for part in range(len(PARTS)):
            sums[0, part], counts[0, part] = states[parts == part].sum(axis=0), (parts == part).sum()
        factors, _ = self._factors(sums, counts, pooling, role)
        made = np.zeros_like(states)
        for part in self.pooled_parts(pooling):
            mine = parts == part
            if self.is_raw:
                made[mine] = states[mine] * factors[0, part]
            elif mine.any():
                made[mine] = self._apply(part, states[mine] - self._mean(role, part)) * (
                    factors[0, part] / counts[0, part]
                )
        return made

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
        """What groups of one part's states add to the unit vectors of their texts: ``(g, d)`` fp64.

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
        """Write the arrays to ``folder`` under a name that holds their hash, and return it; an older file
        stays beside it.
        """
        from safetensors.numpy import save

        data = save({"means": self.means.astype(np.float32), "scale": self.scale.astype(np.float32)})
        name = f"geometry-{hashlib.sha256(data).hexdigest()[:12]}.safetensors"
        write_atomically(folder / name, lambda path: path.write_bytes(data))
        return name

    def as_dict(self) -> dict:
        """For a manifest: kind, weights, and where the statistics come from."""
        return {"kind": self.kind} | ({} if self.is_raw else {"weights": list(self.weights)} | dict(self.about))

    @classmethod
    def load(cls, folder: Path, stored: dict) -> Geometry:
        """The geometry of a manifest (:meth:`as_dict` with the file's name and hash).

        Raises GraceError if the file does not hold.
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
    """In plain words what a score is in a geometry of this kind."""
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
    """Raises GraceError for a kind that there is not."""
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

    ``model`` holds the model's own statistics, which stand in for documents where these are few, and for
    queries where none are given: DOCUMENTS and QUERIES say how many of the collection's own count as much.
    ``queries`` are unlabelled queries of the collection, as sums and counts. With neither, the queries' mean
    is that of the documents. Raises GraceError for fewer than FEW documents without ``model``, except for
    raw, which needs no statistics.
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
    mean, variance, asked = own.means[1], own.variances, own.means[1]
    if model is not None:
        # of a part that no document of the collection has, the model's statistics are all there is
        share = np.where(documents[1].sum(axis=0) > 0, count / (count + DOCUMENTS), 0.0)[:, None]
        apart = mean - model.means[1]
        variance = share * variance + (1 - share) * model.variances + share * (1 - share) * apart**2
        mean = share * mean + (1 - share) * model.means[1]
        asked = model.means[0] + np.where(share > 0, SHIFT * apart, 0.0) if model.queries else mean
    if own.queries:
        share = own.queries / (own.queries + QUERIES)
        asked = share * own.means[0] + (1 - share) * asked
    about = (("documents", count), ("model_statistics", model is not None), ("queries", own.queries))
    scale = np.ones_like(variance) if kind == "centred" else _scale(variance)
    if kind == "whitened":
        scale = np.stack([_whitening(documents, part, mean[part], scale[part]) for part in range(len(PARTS))])
    return _kept(kind, np.stack([asked, mean]), scale, weights, about)


def of_model(statistics: Statistics | None, weights: tuple[float, float, float] = WEIGHTS) -> Geometry:
    """The default geometry from a model's own statistics alone, for texts of no collection; raw where it has none."""
    if statistics is None:
        return RAW
    about = (("documents", 0), ("model_statistics", True), ("queries", 0))
    return _kept(DEFAULT, statistics.means, _scale(statistics.variances), weights, about)


def _kept(
    kind: str, means: np.ndarray, scale: np.ndarray, weights: tuple[float, float, float], about: tuple
) -> Geometry:
    """A geometry in the precision in which it is kept."""
    means, scale = (array.astype(np.float32).astype(np.float64) for array in (means, scale))
    return Geometry(kind, means, scale, weights, about)


def _scale(variance: np.ndarray) -> np.ndarray:
    """One over the standard deviations ``(3, d)``; a dimension that hardly varies is not blown up, nor a part
    that nobody has.
    """
    deviation = np.sqrt(variance)
    middle = np.median(deviation, axis=1, keepdims=True)
    return 1 / np.where(middle > 0, np.maximum(deviation, SMALLEST * middle), np.maximum(deviation, 1.0))


def _whitening(documents: Sums, part: int, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The matrix ``(d, d)`` that a part's rows are multiplied with, from at most SAMPLE documents spread over all.

    Standardised first, or the outlier dimensions alone would set the shrinkage.
    """
    sums, counts = documents
    rows = (
        np.unique(np.linspace(0, len(sums) - 1, min(len(sums), SAMPLE)).astype(int)) if len(sums) else np.zeros(0, int)
    )
    made, number = np.zeros((len(mean), len(mean))), 0
    for start in range(0, len(rows), 4_096):
        means, there = part_means(sums[rows[start : start + 4_096]], counts[rows[start : start + 4_096]])
        apart = (means[there[:, part], part] - mean) * scale
        made, number = made + apart.T @ apart, number + len(apart)
    values, axes = np.linalg.eigh(made / max(1, number))
    values = values.clip(0)
    level = SHRINKAGE * values.mean() or 1.0
    return scale[:, None] * ((axes / np.sqrt(values + level)) @ axes.T)
