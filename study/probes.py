"""Probes of vectors besides retrieval, on things of the test split: the kind of thing, and graded similarity.

``kind``        1 for every test query whose kind of thing (one of 28) a logistic regression predicts, else 0. It is trained on the
                vectors of the training things' passages, so it must generalise from passages to queries, and to unseen things.
``similarity``  cosines of pairs of passages: for each test thing its two passages (grade 2), one of them with a passage of another
                test thing of the kind (1), and with a passage of a test thing of another kind (0). :func:`spearman` of cosines
                and grades is the figure that benchmarks of semantic textual similarity report.
"""

from __future__ import annotations

from collections.abc import Container
from random import Random

import numpy as np

from grace_study.corpus import Entry

GRADES = (2, 1, 0)


def kinds_right(entries: list[Entry], queries: dict[str, np.ndarray], passages: dict[str, np.ndarray]) -> np.ndarray:
    """Whether the kind of each query is predicted, 1 or 0, ``(m,)``; vectors ``(d,)`` are by the corpus's ids."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labelled = [(f"{entry.slug}-{n}", entry.kind.kind) for entry in entries if entry.split == "train" for n in (1, 2)]
    labelled = [(passage, kind) for passage, kind in labelled if passage in passages]
    kind_of = {entry.slug: entry.kind.kind for entry in entries}
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(np.stack([passages[passage] for passage, _ in labelled]), [kind for _, kind in labelled])
    kinds = [kind_of[query.removeprefix("q-").rsplit("-", 1)[0]] for query in queries]
    return (classifier.predict(np.stack(list(queries.values()))) == np.array(kinds)).astype(float)


def pairs(entries: list[Entry], passages: Container[str]) -> list[tuple[str, str]]:
    """Pairs of ids among ``passages``: for every test thing one of each grade, in the order of GRADES; always the
    same.
    """
    test = [
        entry for entry in entries if entry.split == "test" and all(f"{entry.slug}-{n}" in passages for n in (1, 2))
    ]
    rng, chosen = Random("pairs"), []
    for entry in test:
        first = f"{entry.slug}-1"
        same_kind = [peer.slug for peer in test if peer.kind is entry.kind and peer is not entry]
        other_kinds = [peer.slug for peer in test if peer.kind is not entry.kind]
        if same_kind and other_kinds:
            chosen += [
                (first, f"{entry.slug}-2"),
                *((first, f"{rng.choice(slugs)}-{rng.choice((1, 2))}") for slugs in (same_kind, other_kinds)),
            ]
    return chosen


def similarities(entries: list[Entry], passages: dict[str, np.ndarray]) -> np.ndarray:
    """Cosines of :func:`pairs` from normalised vectors, ``(3 × things,)``."""
    return np.array([float(passages[a] @ passages[b]) for a, b in pairs(entries, passages)])


def spearman(cosines: np.ndarray) -> float:
    """Rank correlation of the cosines of :func:`similarities` with their grades."""
    from scipy.stats import spearmanr

    return float(spearmanr(cosines, np.tile(GRADES, len(cosines) // len(GRADES))).statistic)
