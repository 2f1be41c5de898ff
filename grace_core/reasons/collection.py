"""The reasons of a collection: clusters of the sentences of its rationales, with a name, a sentence that
stands for each, its documents.

    <collection>/<model>/reasons.json         sizes, agreement with another seed, what they belong to; written last
                        /reasons.safetensors  the hierarchy, and what its fine clusters add to the documents' vectors

With c_s what sentence s adds to the unit vector z of its document (:mod:`grace_core.reasons.sentences`):

    place      x_s = c_s / |c_s| less the mean of these over all sentences, normalised; what is clustered (grace_core.reasons.clusters)
    direction  g_r = sum over s in r of x_s, normalised
    total      M_r = sum over s in r of c_s / n, over n documents: what r adds to the mean vector of the collection
    share      (mean over documents of z · (sum of its c_s in r) - M_r · m) / (1 - |m|²), m the mean vector

The share is r's part of the variance of the documents' vectors, of what sets them apart. With those of the
texts, of the template and of sentences that say nothing (tags and marks, in no reason), shares add up to 1.
All of it belongs to one geometry; sentences do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import numpy as np

from grace_core.errors import GraceError
from grace_core.files import check_writable, only_writer, read_json, sha256, write_atomically, write_json
from grace_core.index import GraceIndex
from grace_core.model import GraceModel
from grace_core.pooling import TEMPLATE, TEXT
from grace_core.reasons.clusters import Hierarchy, agreement, choose_size, cluster
from grace_core.reasons.names import best_terms, name_groups, terms_of
from grace_core.reasons.sentences import (
    REMEDY,
    Sentences,
    check_rationales,
    find_sentences,
    have_sentences,
    open_sentences,
)

SCHEMA = 1
BLOCK = 4_096
OTHERS = ("text", "template", "no reason")  # what a vector is made of besides reasons
Progress = Callable[[str, int, int], None]  # stage, done, all


@dataclass(frozen=True)
class Reason:
    """A group of sentences.

    ``sentence`` is the number of the one that stands for it, ``size`` how many there are, ``documents`` the
    rows of those that have one, ``share`` its part of what sets the documents apart."""

    number: int
    name: str
    terms: list[str]
    sentence: int
    size: int
    documents: np.ndarray
    share: float


@dataclass(frozen=True)
class Grouping:
    """The reasons at one size. ``labels`` ``(s,)`` is the reason of each sentence, -1 for one that says nothing.

    ``directions`` ``(r, d)`` are unit vectors, ``totals`` ``(r + 3, d)`` what each reason, and each of
    OTHERS, adds to the mean vector of the collection, ``other_shares`` ``(3,)`` the shares of OTHERS,
    ``middle`` ``(d,)`` the mean that places are taken from.
    """

    sentences: Sentences
    labels: np.ndarray
    reasons: list[Reason]
    directions: np.ndarray
    totals: np.ndarray
    other_shares: np.ndarray
    middle: np.ndarray

    def __len__(self) -> int:
        return len(self.reasons)

    def check(self, reason: object) -> int:
        """The number of a reason. Raises GraceError for one that there is not."""
        if type(reason) is not int or not 0 <= reason < len(self):
            raise GraceError(
                f"there is no reason {str(reason)[:20]!r}, there are 0 to {len(self) - 1}; take a number of the list"
            )
        return reason


class Reasons:
    """All reasons of an index, at every size. Open with :func:`open_reasons`, make with :func:`make_reasons`."""

    def __init__(self, sentences: Sentences, tensors: dict[str, np.ndarray], about: dict):
        self.sentences, self.about = sentences, about
        self.hierarchy = Hierarchy(tensors["fine"], tensors["merges"].reshape(-1, 2))
        self._totals, self._places, self._own = tensors["totals"], tensors["places"], tensors["own"]
        self._standing, self._examples, self._middle = tensors["standing"], tensors["examples"], tensors["middle"]
        self._groupings: dict[int, Grouping] = {}
        self._lock = Lock()

    @property
    def sizes(self) -> list[int]:
        return self.hierarchy.sizes

    @property
    def default_size(self) -> int:
        """The size with the best silhouette (:func:`grace_core.reasons.clusters.choose_size`)."""
        return self.about["size"]

    @cached_property
    def _terms(self) -> list[frozenset[str]]:
        return [terms_of(text) for text in self.sentences.texts]

    def at(self, size: int | None = None) -> Grouping:
        """The reasons at one of :attr:`sizes`, made once; None is :attr:`default_size`.

        Raises GraceError for another.
        """
        size = self.default_size if size is None else size
        if type(size) is not int or size not in self.sizes:
            raise GraceError(f"there are no {str(size)[:20]} reasons; sizes are {', '.join(map(str, self.sizes))}")
        with self._lock:
            if size not in self._groupings:
                self._groupings[size] = self._group(size)
            return self._groupings[size]

    def _group(self, size: int) -> Grouping:
        speaking = self.sentences.speaking
        labels = np.full(len(self.sentences), -1)
        labels[speaking] = self.hierarchy.cut(size)
        fine = np.zeros(self.hierarchy.largest, np.int64)  # the reason of each fine cluster
        fine[self.hierarchy.fine] = labels[speaking]
        places, own = np.zeros((size, self._places.shape[1])), np.zeros(size)
        totals = np.zeros((size + len(OTHERS), places.shape[1]))
        np.add.at(places, fine, self._places)
        np.add.at(own, fine, self._own[: len(fine)])
        np.add.at(totals, fine, self._totals[: len(fine)])
        totals[size:], own = self._totals[len(fine) :], np.concatenate([own, self._own[len(fine) :]])
        directions = unit(places)
        standing = np.full(size, -1)
        near = np.einsum("fd,fd->f", self._examples, directions[fine])
        for i in np.lexsort((np.arange(len(fine)), -near)):
            if standing[fine[i]] < 0:
                standing[fine[i]] = self._standing[i]
        mean = totals.sum(axis=0)
        variance = 1 - float(mean @ mean)
        shares = (
            (own - totals @ mean) / variance if variance > 1e-5 else np.zeros(len(own))
        )  # of documents that are all the same
        terms = best_terms(self._terms, labels, size)
        names = name_groups(terms, [self.sentences.texts[i] for i in standing])
        order = np.argsort(labels, kind="stable")
        groups = np.split(order, np.searchsorted(labels[order], np.arange(size)))[1:]
        reasons = [
            Reason(
                r,
                names[r],
                [term for term, _ in terms[r]],
                int(standing[r]),
                len(group),
                np.unique(self.sentences.rows[group]),
                float(shares[r]),
            )
            for r, group in enumerate(groups)
        ]
        return Grouping(self.sentences, labels, reasons, directions, totals, shares[size:], self._middle)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _about(index: GraceIndex) -> dict:
    sentences = read_json(index.folder / "sentences.json", REMEDY)["files"]
    return {"schema": SCHEMA, "sentences": sentences, "geometry": index.manifest.get("geometry", {})}


def have_reasons(index: GraceIndex) -> bool:
    """Whether the reasons of this very index, with its rationales as they are now and in its present geometry, are stored."""
    if not have_sentences(index) or not (index.folder / "reasons.json").is_file():
        return False
    return _about(index).items() <= read_json(index.folder / "reasons.json", REMEDY).items()


def open_reasons(index: GraceIndex) -> Reasons:
    """The stored reasons. Raises GraceError if there are none, or if a file of theirs was changed."""
    from safetensors.numpy import load_file

    sentences = open_sentences(index)
    if not have_reasons(index):
        raise GraceError(f"{index.folder} has no reasons of its sentences as they are now; {REMEDY}: `grace reasons`")
    about, path = read_json(index.folder / "reasons.json", REMEDY), index.folder / "reasons.safetensors"
    if not path.is_file() or sha256(path) != about["sha256"]:
        raise GraceError(f"{path} is missing or was changed; remove {index.folder / 'reasons.json'} and {REMEDY}")
    return Reasons(sentences, load_file(path), about)


def make_reasons(
    index: GraceIndex,
    model: GraceModel | None = None,
    *,
    seed: int | None = None,
    progress: Progress = lambda stage, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Reasons:
    """The reasons of an index: those stored, if they are of this ``seed`` (None: of any), or made now.

    See :func:`find_sentences`.

    They are made twice, the second time with the next seed, to tell how much of them is chance. Raises GraceError, before
    anything is made, if the index's folder cannot be written.
    """
    from safetensors.numpy import save_file

    check_rationales(index)
    if have_reasons(index) and seed in (None, read_json(index.folder / "reasons.json", REMEDY)["seed"]):
        return open_reasons(index)
    check_writable(index.folder, "reasons")
    sentences = find_sentences(
        index, model, progress=lambda done, total: progress("sentences", done, total), should_stop=should_stop
    )
    tensors, about = group_sentences(sentences, seed=seed or 0, progress=progress)
    with only_writer(index.folder):
        path = index.folder / "reasons.safetensors"
        write_atomically(path, lambda target: save_file(tensors, target))
        write_json(index.folder / "reasons.json", _about(index) | about | {"sha256": sha256(path)})
    return open_reasons(index)


def group_sentences(
    sentences: Sentences, *, seed: int = 0, progress: Progress = lambda stage, done, total: None
) -> tuple[dict, dict]:
    """What :class:`Reasons` is made of, as tensors and as a manifest.

    Raises GraceError if no sentence says anything.
    """
    numbers = np.flatnonzero(sentences.speaking)
    if not len(numbers):
        raise GraceError(
            f"no rationale of {sentences.index.folder} says anything; reasons are made of what rationales say"
        )
    progress("clusters", 0, 3)
    places, middle = sentence_places(sentences, numbers)
    different = len({sentences.texts[i].strip() for i in numbers})
    hierarchy, other = cluster(places, seed=seed, most=different), None
    progress("clusters", 1, 3)
    other = cluster(places, seed=seed + 1, most=different)
    progress("clusters", 2, 3)
    size, silhouettes = choose_size(places, hierarchy, seed=seed)
    agreements = {
        str(size): round(agreement(hierarchy.cut(size), other.cut(size)), 3)
        for size in hierarchy.sizes
        if size <= other.largest
    }
    tensors = {"fine": hierarchy.fine.astype(np.int64), "merges": hierarchy.merges.astype(np.int64).reshape(-1, 2)}
    tensors |= _totals(sentences, numbers, hierarchy) | _examples(places, numbers, hierarchy) | {"middle": middle}
    progress("clusters", 3, 3)
    return tensors, {
        "seed": seed,
        "size": size,
        "sizes": hierarchy.sizes,
        "silhouettes": {str(size): value for size, value in silhouettes.items()},
        "agreement": agreements,
        "documents": len(sentences.index),
        "speaking": len(numbers),
        "residual": sentences.residual(),
    }


def sentence_places(sentences: Sentences, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places ``(s, d)`` fp32 of some sentences: unit vectors of what they add, less their mean,
    normalised; and that mean ``(d,)``.
    """
    places = np.empty((len(numbers), sentences.sums.shape[1]), np.float32)
    for begin in range(0, len(numbers), BLOCK):
        places[begin : begin + BLOCK] = unit(sentences.vectors(numbers[begin : begin + BLOCK]))
    middle = places.mean(axis=0, dtype=np.float64).astype(np.float32)
    for begin in range(0, len(numbers), BLOCK):
        places[begin : begin + BLOCK] = unit(places[begin : begin + BLOCK] - middle)
    return places, middle


def _totals(sentences: Sentences, numbers: np.ndarray, hierarchy: Hierarchy) -> dict[str, np.ndarray]:
    """Of each fine cluster, and of OTHERS behind them, what :func:`add_up` gives."""
    label = np.full(len(sentences), hierarchy.largest + OTHERS.index("no reason"))
    label[numbers] = hierarchy.fine
    totals, own = add_up(sentences, label, hierarchy.largest)
    return {"totals": totals.astype(np.float32), "own": own}


def add_up(sentences: Sentences, labels: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Of ``groups`` groups of sentences, and of OTHERS behind them: what they add to the mean vector, ``(g +
    3, d)``, and the mean of z · (what it adds), ``(g + 3,)``. ``labels`` ``(s,)`` holds the place of each
    sentence among these."""
    index = sentences.index
    totals, own = np.zeros((groups + len(OTHERS), sentences.sums.shape[1])), np.zeros(groups + len(OTHERS))
    for begin in range(0, len(index), BLOCK):
        rows = np.arange(begin, min(begin + BLOCK, len(index)))
        parts = index.geometry.parts(index.sums[rows], index.counts[rows])
        whole = parts.sum(axis=1)
        for name, part in (("text", TEXT), ("template", TEMPLATE)):
            totals[groups + OTHERS.index(name)] += parts[:, part].sum(axis=0)
            own[groups + OTHERS.index(name)] += np.einsum("nd,nd->", parts[:, part], whole)
        mine = np.arange(sentences.borders[begin], sentences.borders[rows[-1] + 1])
        added = sentences.vectors(mine) if len(mine) else np.zeros((0, totals.shape[1]))
        np.add.at(totals, labels[mine], added)
        np.add.at(own, labels[mine], np.einsum("sd,sd->s", added, whole[sentences.rows[mine] - begin]))
    return totals / len(index), own / len(index)


def _examples(places: np.ndarray, numbers: np.ndarray, hierarchy: Hierarchy) -> dict[str, np.ndarray]:
    """Of each fine cluster: ``places`` ``(f, d)``, the sum of its sentences' places; ``standing`` ``(f,)``,
    the number of the sentence that is nearest to it, the first of equal ones; ``examples`` ``(f, d)``, the
    place of that sentence."""
    sums = np.zeros((hierarchy.largest, places.shape[1]))
    np.add.at(sums, hierarchy.fine, places)
    near = np.einsum("sd,sd->s", places, unit(sums)[hierarchy.fine])
    order = np.lexsort((np.arange(len(near)), -near.round(6), hierarchy.fine))
    first = order[np.searchsorted(hierarchy.fine[order], np.arange(hierarchy.largest))]
    return {"places": sums.astype(np.float32), "standing": numbers[first], "examples": places[first]}
