"""What vectors hold besides who answers whom: the kind of thing, and graded similarity.

Both on things of the test split.

``kind``        1 for every test query whose kind of thing (one of 28) a logistic regression names, else 0. It is trained on the vectors
                of the training things' passages, so that it must carry over from passages to questions, and to things never seen.
``similarity``  cosines of pairs of passages: for each test thing its two passages (grade 2), one with a passage of another
                test thing of the kind (1), and one with a passage of a test thing of another kind (0). :func:`spearman` of cosines
                and grades is what benchmarks of semantic textual similarity report.
"""

from __future__ import annotations

from collections.abc import Container
from random import Random

import numpy as np

from grace_study.corpus import Entry

GRADES = (2, 1, 0)


def kinds_right(entries: list[Entry], queries: dict[str, np.ndarray], passages: dict[str, np.ndarray]) -> np.ndarray:
    """1 or 0 for each of ``queries``, ``(m,)``. Vectors ``(d,)`` by the corpus's ids."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known = [(f"{entry.slug}-{n}", entry.kind.kind) for entry in entries if entry.split == "train" for n in (1, 2)]
    known = [(passage, kind) for passage, kind in known if passage in passages]
    kind_of = {entry.slug: entry.kind.kind for entry in entries}
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(np.stack([passages[passage] for passage, _ in known]), [kind for _, kind in known])
    wanted = [kind_of[query.removeprefix("q-").rsplit("-", 1)[0]] for query in queries]
    return (classifier.predict(np.stack(list(queries.values()))) == np.array(wanted)).astype(float)


def pairs(entries: list[Entry], passages: Container[str]) -> list[tuple[str, str]]:
    """Pairs of ids among ``passages``, for every test thing one of each of GRADES, in that order; always the same."""
    test = [
        entry for entry in entries if entry.split == "test" and all(f"{entry.slug}-{n}" in passages for n in (1, 2))
    ]
    rng, made = Random("pairs"), []
    for entry in test:
        first = f"{entry.slug}-1"
        same = [other.slug for other in test if other.kind is entry.kind and other is not entry]
        other = [other.slug for other in test if other.kind is not entry.kind]
        if same and other:
            made += [
                (first, f"{entry.slug}-2"),
                *((first, f"{rng.choice(some)}-{rng.choice((1, 2))}") for some in (same, other)),
            ]
    return made


def similarities(entries: list[Entry], passages: dict[str, np.ndarray]) -> np.ndarray:
    """Cosines of :func:`pairs` from normalised vectors, ``(3 × things,)``."""
    return np.array([float(passages[a] @ passages[b]) for a, b in pairs(entries, passages)])


def spearman(cosines: np.ndarray) -> float:
    """Rank correlation of cosines, as :func:`similarities` gives them, with their grades."""
    from scipy.stats import spearmanr

    return float(spearmanr(cosines, np.tile(GRADES, len(cosines) // len(GRADES))).statistic)
