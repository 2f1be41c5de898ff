"""BM25 over the documents of a collection, and each score by the terms of the query.

    score(q, d) = sum over terms t of q of  n_q(t) · idf(t) · f(t, d) / (f(t, d) + k1 (1 - b + b |d| / average))
    idf(t)      = log(1 + (N - n(t) + 0.5) / (n(t) + 0.5))

with f(t, d) how often t stands in d, n(t) the number of documents that hold t, N that of all documents, |d|
the number of terms of d, and n_q(t) how often t stands in q. It is the library bm25s with its own settings
(Lucene's variant, k1 1.5, b 0.75): words of at least two letters or digits, in lower case, without its
English stop words. Signs of Chinese in a row are one word to it. The products are fp32, as bm25s stores them,
and are summed in fp64. A term that no document holds adds nothing.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

K1, B = 1.5, 0.75


@dataclass(frozen=True)
class Term:
    """A term of a query, what it adds to a document's score, and what the index knows of it.

    ``times`` in the query, ``frequency`` in the document, which has ``length`` terms where documents have
    ``average`` of them; ``documents`` of the corpus hold it, out of ``corpus``.
    """

    term: str
    value: float
    times: int
    frequency: int
    documents: int
    corpus: int
    idf: float
    length: int
    average: float

    def about(self) -> dict:
        return {
            "times in the query": self.times,
            "frequency": self.frequency,
            "documents with it": self.documents,
            "documents": self.corpus,
            "idf": self.idf,
            "length": self.length,
            "average length": self.average,
        }


class Bm25:
    """An index over ``texts``, in memory. Safe to share between threads."""

    def __init__(self, texts: Sequence[str]):
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells its steps on stderr otherwise
        self.size = len(texts)
        tokens = bm25s.tokenize(list(texts), show_progress=False)
        self.lengths = np.array([len(ids) for ids in tokens.ids], np.int64)
        self.average = float(self.lengths.mean()) if self.size else 0.0
        self._ids: dict[str, int] = {}
        self._data, self._rows, self._begins = np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(1, np.int64)
        if tokens.vocab:  # bm25s cannot index a corpus without a single term
            retriever = bm25s.BM25(k1=K1, b=B)
            retriever.index(tokens, create_empty_token=False, show_progress=False)
            self._ids = dict(retriever.vocab_dict)
            self._data, self._rows, self._begins = (retriever.scores[name] for name in ("data", "indices", "indptr"))

    def terms(self, text: str) -> list[str]:
        """The terms of a text, in its order."""
        import bm25s

        return bm25s.tokenize([text], return_ids=False, show_progress=False)[0]

    def left_out(self, text: str) -> list[str]:
        """Words of a text that are no terms, since they are as good as everywhere."""
        import bm25s

        words = bm25s.tokenize([text], stopwords=None, return_ids=False, show_progress=False)[0]
        terms = set(self.terms(text))
        return [word for word in dict.fromkeys(words) if word not in terms]

    def scores(self, query: str) -> np.ndarray:
        """Scores ``(n,)`` of all documents, fp64."""
        scores = np.zeros(self.size)
        for term in self.terms(query):
            if term in self._ids:
                begin, end = self._postings(term)
                scores[self._rows[begin:end]] += self._data[begin:end]
        return scores

    def explain(self, query: str, text: str) -> list[Term]:
        """What each term of the query adds to the score of a document with this text.

        The statistics are those of the corpus as it was indexed, also for a text that is not in it.
        """
        asked, words = Counter(self.terms(query)), self.terms(text)
        frequencies, length = Counter(words), len(words)
        terms = []
        for term, times in asked.items():
            documents, frequency = self._documents(term), frequencies[term]
            value = times * self._product(documents, frequency, length) if documents else 0.0
            terms.append(
                Term(term, value, times, frequency, documents, self.size, self._idf(documents), length, self.average)
            )
        return terms

    def _postings(self, term: str) -> tuple[int, int]:
        number = self._ids[term]
        return int(self._begins[number]), int(self._begins[number + 1])

    def _documents(self, term: str) -> int:
        if term not in self._ids:
            return 0
        begin, end = self._postings(term)
        return end - begin

    def _idf(self, documents: int) -> float:
        return math.log(1 + (self.size - documents + 0.5) / (documents + 0.5))

    def _product(self, documents: int, frequency: int, length: int) -> float:
        """idf times the saturated frequency, rounded where bm25s rounds."""
        share = frequency / (K1 * ((1 - B) + B * length / self.average) + frequency)
        return float(np.float32(np.float64(np.float32(self._idf(documents))) * share))
