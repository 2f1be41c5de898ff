"""Regions of a collection: clusters of its documents in the full space, named by words that their rationales share.

Clusters are those of k-means on the normalised vectors, with the number of them that gives the best
silhouette (cosine). On the demo collection, whose documents are of 28 known kinds, k-means recovers these kinds
(adjusted Rand index about 0.9); HDBSCAN in the full space does not (at most 0.44, with a fifth of the documents
in no cluster). See docs/map.md.

A name is the best terms, three at most, by class-based TF-IDF (Grootendorst, arXiv 2203.05794): for a word x
in region c,

    share of the documents of c that hold x  *  log(1 + A / f_x)

with f_x the number of documents that hold x and A the sum of these numbers within a region, averaged over
regions. Documents are counted, not occurrences, so that a repetitive rationale does not count more. Words in
more than half of all documents are left out, and so are words that are rarer inside the region than outside.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from grace_core.errors import GraceError
from grace_core.neighbours import check_vectors, unit
from grace_core.texts import as_texts

CANDIDATES = (2, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 50, 60)  # numbers of regions to try; nobody reads more names
SMALLEST = 8  # documents in a region on average, at least
SAMPLE = 10_000  # documents that k-means is fitted on; the others get the nearest centre
JUDGED = 2_000  # documents that the silhouette is computed on
NAME_TERMS, WEAK = 3, 0.25  # terms of a name, and the share of the best score that each further one needs
EVERYWHERE = 0.5  # a word in a larger share of all documents names no region
MOST, PART = 0.5, 0.2  # shares of a region's documents, see regions_changed
WORD = re.compile(r"[^\W\d_]{3,30}")
TAG = re.compile(r"</?\w+>")
STOP = frozenset(
    """a about above after again against all almost alone along already also although always am among an and another any are around as
    asks at away back be became because become been before began begin behind being below beside best better between both but by
    called came can cannot come could did do does doing done down during each either else even ever every far few first fits for found
    from full gave get give given goes got had half has have having he her here hers herself him himself his how however if in indeed
    into is it its itself just kept known last later least less let like likely made main make makes making many may me means might
    mine more most much must my myself name named near nearly need needs never new next no nor not nothing now of off often old on
    once one only or other others our ours out over own part per points put question quite rather said same saw say says second see
    seen several shall she should show shows since so some still such take taken tells text than that the their theirs them themselves
    then there therefore these they thing things think this those though three through thus till time to today together too took
    toward two under until up upon us use used uses using very was way we well went were what when where whether which while who whom
    whose why will with within without would year years yet you your yours""".split()
)


@dataclass(frozen=True)
class Regions:
    """``labels`` ``(n,)`` int32, the region of each document (-1: none), and for each region a name and its
    terms, best first.
    """

    labels: np.ndarray
    names: list[str]
    terms: list[list[str]]


def find_regions(vectors: np.ndarray, texts: Sequence[str], *, seed: int = 0) -> Regions:
    """Clusters the documents ``(n, d)`` and names each cluster by its ``texts``, one for each document: their
    rationales, if there are any.

    Regions are numbered from the largest to the smallest. The same seed gives the same regions. Raises
    GraceError for vectors that are not finite, or another number of texts.
    """
    vectors, texts = unit(check_vectors(vectors)), as_texts(texts)
    if len(texts) != len(vectors):
        raise GraceError(f"got {len(vectors)} vectors and {len(texts)} texts; give one text for each vector")
    labels = _by_size(_clusters(vectors, seed))
    word_sets = [words(text) for text in texts]
    groups = [[word_sets[row] for row in np.flatnonzero(labels == label)] for label in range(labels.max() + 1)]
    scored = _class_terms(groups)
    return Regions(labels, _names(scored), [list(terms) for terms in scored])


def _clusters(vectors: np.ndarray, seed: int) -> np.ndarray:
    """A label for each row, by k-means with the number of clusters that has the best silhouette."""
    random = np.random.default_rng(seed)
    learned = (
        vectors if len(vectors) <= SAMPLE else vectors[np.sort(random.choice(len(vectors), SAMPLE, replace=False))]
    )
    judged = learned if len(learned) <= JUDGED else learned[np.sort(random.choice(len(learned), JUDGED, replace=False))]
    different = len(np.unique(judged, axis=0))
    candidates = [number for number in CANDIDATES if number < different and number * SMALLEST <= len(vectors)]
    if not candidates:
        return np.zeros(len(vectors), np.int32)
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits

    def fit(number: int, rows: np.ndarray, attempts: int) -> KMeans:
        return KMeans(number, n_init=attempts, random_state=seed).fit(rows)

    with threadpool_limits(1, user_api="openmp"):  # k-means adds the threads' sums in any order
        scores = {
            number: silhouette_score(judged, fit(number, judged, 2).labels_, metric="cosine") for number in candidates
        }
        best = max(scores, key=lambda number: (round(float(scores[number]), 3), -number))
        return fit(best, learned, 5).predict(vectors).astype(np.int32)


def _by_size(labels: np.ndarray) -> np.ndarray:
    """The labels renumbered by size, the largest cluster first; ties by first document."""
    present, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    new = np.zeros(present.max() + 1, np.int32)
    new[present[np.lexsort((first, -sizes))]] = np.arange(len(present))
    return new[labels]


def words(text: str) -> frozenset[str]:
    """The distinct words of a text in lower case, without tags, numbers and stop words."""
    return frozenset(WORD.findall(TAG.sub(" ", text).lower())) - STOP


def top_terms(texts: Sequence[str], background: Sequence[str], n: int = 8) -> list[str]:
    """The terms that set ``texts`` apart from ``background`` (all others), best first, at most ``n``; see the
    top of this module.
    """
    return list(
        _class_terms(
            [[words(text) for text in group] for group in (as_texts(texts), as_texts(background, "background"))], n
        )[0]
    )


def _class_terms(groups: Sequence[Sequence[Iterable[str]]], n: int = 8) -> list[dict[str, float]]:
    """For each group of documents, given as their words, its ``n`` best terms with their scores, best first."""
    counts = [Counter(word for document in group for word in document) for group in groups]
    total: Counter = Counter()
    for count in counts:
        total.update(count)
    documents = sum(len(group) for group in groups)
    average = total.total() / max(1, len(groups))
    terms = []
    for group, count in zip(groups, counts, strict=True):
        alone = len(group) == documents  # there are no other documents
        scores = {}
        for word, number in count.items():
            share, overall = number / len(group), total[word] / documents
            if alone or (share > overall and overall <= EVERYWHERE):
                scores[word] = share * np.log1p(average / total[word])
        ranked = _distinct(sorted(scores, key=lambda word: (-scores[word], word)), n)
        terms.append({word: float(scores[word]) for word in ranked})
    return terms


def _distinct(ranked: list[str], n: int) -> list[str]:
    """The first ``n`` words that are no other form of an earlier one: river, rivers; painted, painters."""
    kept: list[str] = []
    for word in ranked:
        if len(kept) == n:
            break
        if not any(_same_stem(word, earlier) for earlier in kept):
            kept.append(word)
    return kept


def _same_stem(a: str, b: str) -> bool:
    """Whether the words differ in their last three letters at most."""
    length = max(4, len(a) - 3, len(b) - 3)
    return a[:length] == b[:length]


def _names(scored: list[dict[str, float]]) -> list[str]:
    """A distinct name for each region: its best terms with scores near the first one's; if another region has
    that name, further terms or a number are added.
    """
    names: list[str] = []
    for label, terms in enumerate(scored):
        own = list(terms)
        strong = sum(terms[word] >= WEAK * terms[own[0]] for word in own)
        tried = [" · ".join(own[:length]) for length in range(min(strong, NAME_TERMS), len(own) + 1)]
        tried = [name for name in tried if name] or [f"region {label + 1}"]
        free = [name for name in tried if name not in names]
        names.append(free[0] if free else f"{tried[0]} ({label + 1})")
    return names


def regions_changed(a: Regions, b: Regions) -> list[str]:
    """Lines that say how the regions of column a changed in column b: splits, mergers, scattered and new
    regions, and how many stayed.

    Regions are compared by the numbers of documents that they share. A region *stayed* if it
    shares more than half of its documents with one of b, and that one more than half of its own with it. It
    *split* if two or more regions of b are mostly made of it and hold a fifth of it each; regions *merged*
    where that holds the other way round. Documents in no region do not count.
    """
    if len(a.labels) != len(b.labels):
        raise GraceError(
            f"the columns have {len(a.labels)} and {len(b.labels)} documents; give the regions of the same documents"
        )
    table = np.zeros((len(a.names), len(b.names)), np.int64)
    both = (a.labels >= 0) & (b.labels >= 0)
    np.add.at(table, (a.labels[both], b.labels[both]), 1)
    of_a, of_b = table / table.sum(axis=1, keepdims=True).clip(1), table / table.sum(axis=0, keepdims=True).clip(1)
    splits = {i: np.flatnonzero((of_b[i] > MOST) & (of_a[i] >= PART)).tolist() for i in range(len(a.names))}
    mergers = {j: np.flatnonzero((of_a[:, j] > MOST) & (of_b[:, j] >= PART)).tolist() for j in range(len(b.names))}
    splits = {i: parts for i, parts in splits.items() if len(parts) > 1}
    mergers = {j: parts for j, parts in mergers.items() if len(parts) > 1}
    merged = {i for parts in mergers.values() for i in parts}
    stayed = [
        i
        for i in range(len(a.names))
        if i not in merged and i not in splits and ((of_a[i] > MOST) & (of_b[i] > MOST)).any()
    ]
    explained = {j for parts in splits.values() for j in parts} | set(mergers)
    lines = [f"{_quoted(a, [i])} split into {_quoted(b, parts)}" for i, parts in splits.items()]
    lines += [f"{_quoted(a, parts)} merged into {_quoted(b, [j])}" for j, parts in mergers.items()]
    for i in range(len(a.names)):
        if i not in merged and i not in splits and i not in stayed and table[i].any():
            now = [j for j in np.argsort(-table[i], kind="stable").tolist() if of_a[i, j] >= PART][:3]
            lines.append(f"{_quoted(a, [i])} scattered" + (f", mostly into {_quoted(b, now)}" if now else ""))
    for j in range(len(b.names)):
        if j not in explained and not (of_b[:, j] > MOST).any() and table[:, j].any():
            before = [i for i in np.argsort(-table[:, j], kind="stable").tolist() if of_b[i, j] >= PART][:3]
            lines.append(f"{_quoted(b, [j])} is new" + (f", mostly from {_quoted(a, before)}" if before else ""))
    return [*lines, f"{len(stayed)} of {len(a.names)} regions stayed"]


def _quoted(regions: Regions, labels: list[int]) -> str:
    names = [f"“{regions.names[label]}”" for label in labels]
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
