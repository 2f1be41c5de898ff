"""Names of groups of sentences: the terms that set each apart from the others, in any script.

Terms of a sentence are its words of three letters or more, in lower case, without stop words; two such words
that stand side by side; and, of scripts that write without spaces (Chinese, Japanese, Thai, Lao, Khmer,
Burmese), every run of two to four letters. By class-based TF-IDF (after Grootendorst, arXiv 2203.05794), a
term x in group c has

    share of the sentences of c that hold x  *  log(1 + A / f_x)

with f_x the number of sentences that hold x, and A the average over groups of such numbers added up over all
terms. Sentences are counted, not occurrences. A term names nothing if it is in more than half of all
sentences, or not more frequent inside than overall: that takes the stop words of other languages along. A
name is the best term with up to two more that have at least a third of its score, none of them part of
another or another form of it. Where no term is left, it is how the sentence that stands for the group begins.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from grace_core.regions import STOP, TAG

TERMS, NAME_TERMS, WEAK = 8, 3, 1 / 3
EVERYWHERE = 0.5
LONGEST = 60  # characters of a name that is a sentence's beginning
UNSPACED = (
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0002ffff"
)
RUN = re.compile(f"[{UNSPACED}]{{2,}}")
WORD = re.compile(rf"(?:(?![{UNSPACED}])[^\W\d_])+(?:['’-](?:(?![{UNSPACED}])[^\W\d_])+)*")
BREAK = re.compile(r"[^\w\s'’-]")
NGRAMS = (2, 3, 4)


def terms_of(text: str) -> frozenset[str]:
    """The terms of a sentence that can name something."""
    text = TAG.sub(" . ", text).lower()
    terms = {
        run[begin : begin + size]
        for run in RUN.findall(text)
        for size in NGRAMS
        for begin in range(len(run) - size + 1)
    }
    for part in BREAK.split(text):
        words = [word if 3 <= len(word) <= 30 and word not in STOP else "" for word in WORD.findall(part)]
        terms.update(word for word in words if word)
        terms.update(f"{a} {b}" for a, b in pairwise(words) if a and b)
    return frozenset(terms)


def best_terms(sentences: Sequence[frozenset[str]], labels: np.ndarray, number: int) -> list[list[tuple[str, float]]]:
    """For each of ``number`` groups its best terms with their scores, best first; ``labels`` ``(s,)``, -1 for
    a sentence in none.
    """
    counts: list[Counter[str]] = [Counter() for _ in range(number)]
    for terms, label in zip(sentences, labels.tolist(), strict=True):
        if label >= 0:
            counts[label].update(terms)
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    sizes = np.bincount(labels[labels >= 0], minlength=number)
    everything, average = max(1, int(sizes.sum())), total.total() / max(1, number)
    return [_ranked(count, int(size), total, everything, average) for count, size in zip(counts, sizes, strict=True)]


def _ranked(
    count: Counter[str], size: int, total: Counter[str], everything: int, average: float
) -> list[tuple[str, float]]:
    scores = {}
    for term, inside in count.items():
        share, overall = inside / size, total[term] / everything
        if size == everything or (
            share > overall and overall <= EVERYWHERE
        ):  # a group alone has nothing to be set apart from
            scores[term] = share * float(np.log1p(average / total[term]))
    kept: list[str] = []
    for term in sorted(scores, key=lambda term: (-scores[term], -len(term), term)):
        if len(kept) == TERMS:
            break
        if not any(_alike(term, other) for other in kept):
            kept.append(term)
    return [(term, scores[term]) for term in kept]


def _alike(a: str, b: str) -> bool:
    """Whether one is part of the other, or they share a word or a word's beginning: river, rivers; painted,
    painters.
    """
    if a in b or b in a:
        return True
    return any(_same_stem(one, other) for one in a.split() for other in b.split())


def _same_stem(a: str, b: str) -> bool:
    length = max(4, len(a) - 3, len(b) - 3)
    return len(a) >= 4 and len(b) >= 4 and a[:length] == b[:length]


def name_groups(terms: Sequence[Sequence[tuple[str, float]]], standing: Sequence[str]) -> list[str]:
    """A name for each group, no two alike, from its terms and the sentence that stands for it."""
    names: list[str] = []
    taken: set[str] = set()
    for own, sentence in zip(terms, standing, strict=True):
        strong = sum(score >= WEAK * own[0][1] for _, score in own[:NAME_TERMS])
        tried = [" · ".join(term for term, _ in own[:length]) for length in range(strong, len(own) + 1) if length]
        tried = tried or [" ".join(TAG.sub(" ", sentence).split())[:LONGEST]]
        name = next((name for name in tried if name not in taken), "")
        number = 2
        while not name or name in taken:
            name = f"{tried[0]} ({number})"
            number += 1
        names.append(name)
        taken.add(name)
    return names
