"""Do the names of reasons say what their documents are about? Measured where documents have labels of their own.

A reason's name is made from sentences of rationales (:mod:`grace_core.reasons.names`). It *hits* a document if one of its words
stands in the document's labels, say ``kind`` and ``focus`` of MedQuAD; words that only differ in their ending count as one. A name's
share is that of its documents that it hits, and it names them if these are more than half. The same is measured of names
that the same formula makes from the texts of the same documents, each text being one sentence of every reason that it has.
Intervals: 95 %, percentile bootstrap over reasons; the difference is paired by reason.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grace_core.errors import GraceError
from grace_core.evaluation.bootstrap import ci95, of_items
from grace_core.reasons.collection import Reasons
from grace_core.reasons.names import NAME_TERMS, WORD, best_terms, terms_of


def measure(reasons: Reasons, columns: Sequence[str], *, size: int) -> dict:
    """``{reasons, documents, names: {…}, texts: {…}, difference: {…}}``, with the mean share and how many name most of their documents.

    Raises GraceError where no document has one of ``columns``.
    """
    grouping, index = reasons.at(size), reasons.sentences.index
    documents = [index.collection.documents[name] for name in index.ids]
    labels = [
        {word for column in columns for word in words(str(document.metadata.get(column) or ""))}
        for document in documents
    ]
    if not any(labels):
        raise GraceError(
            f"no document has {' or '.join(columns)}; name columns of the corpus that say what documents are about"
        )
    held = [reason.documents for reason in grouping.reasons]
    texts = [terms_of(document.content) for document in documents]
    pairs = [(row, reason) for reason, rows in enumerate(held) for row in rows]
    rivals = best_terms([texts[row] for row, _ in pairs], np.array([reason for _, reason in pairs]), len(grouping))
    named = [words(" ".join(reason.terms[:NAME_TERMS])) for reason in grouping.reasons]
    shares = {
        "names": np.array([share(name, [labels[row] for row in rows]) for name, rows in zip(named, held, strict=True)]),
        "texts": np.array(
            [
                share(words(" ".join(term for term, _ in terms[:NAME_TERMS])), [labels[row] for row in rows])
                for terms, rows in zip(rivals, held, strict=True)
            ]
        ),
    }
    result: dict = {"reasons": len(grouping), "documents": len(documents)}
    for way, values in shares.items():
        most = (values > 0.5).astype(float)
        result[way] = {"share": _interval(values), "name_most": _interval(most)}
    result["difference"] = {
        "share": _interval(shares["names"] - shares["texts"]),
        "name_most": _interval((shares["names"] > 0.5).astype(float) - (shares["texts"] > 0.5)),
    }
    return result


def words(text: str) -> set[str]:
    """The words of three letters or more, in lower case."""
    return {word for word in WORD.findall(text.lower()) if len(word) >= 3}


def share(name: set[str], labels: Sequence[set[str]]) -> float:
    """The share of documents one of whose labels is a word of ``name``, but for its ending."""
    return float(np.mean([any(_same(a, b) for a in name for b in own) for own in labels]))


def _same(a: str, b: str) -> bool:
    length = max(4, len(a) - 3, len(b) - 3)
    return a == b or (len(a) >= 4 and len(b) >= 4 and a[:length] == b[:length])


def _interval(values: np.ndarray) -> dict:
    return {"mean": float(values.mean()), "ci95": ci95(of_items(values))}
