"""Was it worth writing? nDCG@10 against the tokens that are written, and a gate that writes only where that may help.

One greedy rationale of at most N tokens is written for each query and document. Cut to its first n tokens and
encoded again it gives the vectors of a budget of n, so that budgets differ in nothing but what is left out.
Three sides are measured, against n = 0, the text alone:

    both       queries and documents are cut to n
    queries    queries are cut to n, documents keep their N: what an index that was built once costs per query
    alone      queries are cut to n, documents have no rationale

The gate (:mod:`grace_core.gating`) decides by the margin of the search by the query's text alone among
documents with their rationales. Its threshold is chosen on queries of another split, over all collections
together, and set beside three things: to write always, never, and for as many queries at random (the expected
value, between the two). Means are over collections, intervals resample the queries of each.

:func:`of_hit` asks the same of one document under one query: score and rank with rationales left out, exchanged and with
their words in random order, by the treatments of :mod:`grace_core.evaluation.faithfulness`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grace_core import ann, gating
from grace_core.errors import GraceError
from grace_core.evaluation.faithfulness import treated
from grace_core.evaluation.geometry import interval
from grace_core.evaluation.retrieval import CUTOFF, Judged, per_query
from grace_core.explain import Explainer
from grace_core.geometry import Geometry, Role, Sums, fit
from grace_core.model import GraceModel, Representations
from grace_core.pooling import RATIONALE, TEXT, Pooling
from grace_core.ranking import dots, rank

LENGTHS = (16, 32, 64, 128)
SIDES = ("both", "queries", "alone")
OF_HIT = ("own", "empty", "swapped", "words")  # treatments of one hit


@dataclass(frozen=True)
class Worth:
    """Of one sample with m queries: nDCG@10 ``(m,)`` by side and budget, the margins ``(m,)``, and the tokens
    that each query and each document writes under every budget."""

    ndcg: dict[str, dict[int, np.ndarray]]
    margins: np.ndarray
    query_tokens: dict[int, np.ndarray]
    document_tokens: dict[int, np.ndarray]


def cut(
    model: GraceModel, texts: Sequence[str], representations: Representations, tokens: int, *, batch_size: int = 64
) -> Sums:
    """Part sums ``(n, 3, d)`` and counts ``(n, 3)`` of ``texts`` with the first ``tokens`` of their
    rationales in ``representations``.

    Only those that are longer are encoded again.
    """
    sums, counts = representations.sums.copy(), representations.counts.copy()
    if longer := [i for i, ids in enumerate(representations.rationale_ids) if len(ids) > tokens]:
        given = model.represent_given(
            [texts[i] for i in longer],
            [representations.rationale_ids[i][:tokens] for i in longer],
            batch_size=batch_size,
        )
        sums[longer], counts[longer] = given.sums, given.counts
    return sums, counts


def measure(
    model: GraceModel,
    judged: Judged,
    *,
    lengths: Sequence[int] = LENGTHS,
    kind: str = "calibrated",
    batch_size: int = 64,
    progress=False,
) -> Worth:
    """nDCG@10 of a sample under every budget. Raises GraceError for budgets that are not above 0."""
    lengths = sorted(set(lengths))
    if not lengths or lengths[0] < 1:
        raise GraceError(
            f"budgets are numbers of tokens above 0, got {', '.join(map(str, lengths)) or 'none'}; none is measured anyway"
        )
    texts = {Role.QUERY: list(judged.queries.values()), Role.DOCUMENT: list(judged.documents.values())}
    options = {"batch_size": batch_size, "progress": progress, "max_new_tokens": lengths[-1], "temperature": 0.0}
    representations = {role: model.represent(texts[role], **options) for role in texts}
    whole = {role: (one.sums, one.counts) for role, one in representations.items()}
    sums = {
        n: {role: cut(model, texts[role], representations[role], n, batch_size=batch_size) for role in texts}
        for n in lengths[:-1]
    }
    sums |= {0: whole, lengths[-1]: whole}
    budgets, names, ids = [0, *lengths], list(judged.queries), list(judged.documents)

    def search(
        geometry: Geometry, queries: np.ndarray, role_sums: Sums, pooling: Pooling
    ) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = ann.exact(geometry.vectors(*role_sums, pooling), queries, CUTOFF)
        rankings = {name: [ids[row] for row in ranking] for name, ranking in zip(names, rows, strict=True)}
        return per_query(rankings, judged.qrels)["ndcg@10"], scores

    def asked(geometry: Geometry, n: int) -> np.ndarray:
        return geometry.vectors(*sums[n][Role.QUERY], Pooling.FULL if n else Pooling.TEXT, Role.QUERY)

    fixed = fit(kind, whole[Role.DOCUMENT], model=model.statistics)
    ndcg = {side: {} for side in SIDES}
    margins = None
    for n in budgets:
        own = fit(kind, sums[n][Role.DOCUMENT], model=model.statistics)
        ndcg["both"][n], _ = search(own, asked(own, n), sums[n][Role.DOCUMENT], Pooling.FULL if n else Pooling.TEXT)
        ndcg["queries"][n], scores = search(fixed, asked(fixed, n), whole[Role.DOCUMENT], Pooling.FULL)
        ndcg["alone"][n], _ = search(fixed, asked(fixed, n), whole[Role.DOCUMENT], Pooling.TEXT)
        margins = gating.margins(scores) if n == 0 else margins
    written = {role: whole[role][1][:, RATIONALE] for role in texts}
    tokens = {role: {n: np.minimum(written[role], n) for n in budgets} for role in texts}
    return Worth(ndcg, margins, tokens[Role.QUERY], tokens[Role.DOCUMENT])


def summary(test: Mapping[str, Worth], dev: Mapping[str, Worth], *, share: float = 0.5) -> dict:
    """``{"budgets": {side: {n: …}}, "gate": {n: …}}`` over the collections of ``test``, with the gate chosen
    on those of ``dev``.

    A budget has ``mean`` and ``ci95``, its difference ``over_none``, and the tokens that a query (and a
    document) writes; the gate its threshold, the share of queries and of tokens that it writes, and its
    differences to always, never and random. Without ``dev`` there is no gate.
    """
    some = next(iter(test.values()))
    budgets = {
        side: {
            n: interval([one.ndcg[side][n] for one in test.values()])
            | {"over_none": interval([one.ndcg[side][n] - one.ndcg[side][0] for one in test.values()])}
            | {"query_tokens": _mean(one.query_tokens[n] for one in test.values())}
            | ({"document_tokens": _mean(one.document_tokens[n] for one in test.values())} if side == "both" else {})
            for n in some.ndcg[side]
        }
        for side in SIDES
    }
    gates = {n: gate_summary(test, dev, n, share=share) for n in some.ndcg["queries"] if n} if dev else {}
    return {"collections": list(test), "chosen_on": list(dev), "share": share, "budgets": budgets, "gate": gates}


def gate_summary(test: Mapping[str, Worth], dev: Mapping[str, Worth], n: int, *, share: float) -> dict:
    """The gate for rationales of n tokens: chosen on ``dev``, measured on ``test``; its curve on ``test`` is
    for the eye only.
    """
    joined = [np.concatenate(values) for values in zip(*(_of_gate(one, n) for one in dev.values()), strict=True)]
    gate = gating.choose(*joined, share=share)
    columns = {"gated": [], "always": [], "never": [], "random": [], "query_tokens": [], "wrote": []}
    for one in test.values():
        margin, without, written = _of_gate(one, n)
        writes = gate.writes(margin)
        columns["gated"].append(np.where(writes, written, without))
        columns["always"].append(written)
        columns["never"].append(without)
        columns["random"].append(without + writes.mean() * (written - without))
        columns["query_tokens"].append(np.where(writes, one.query_tokens[n], 0))
        columns["wrote"].append(writes)
    curves = [gating.curve(*_of_gate(one, n)) for one in test.values()]
    shares = np.linspace(0, 1, 21)
    return {
        "threshold": gate.threshold,
        "wrote": _mean(columns["wrote"]),
        "query_tokens": _mean(columns["query_tokens"]),
        "share_of_tokens": _mean(columns["query_tokens"])
        / max(_mean(one.query_tokens[n] for one in test.values()), 1e-9),
        **{name: interval(columns[name]) for name in ("gated", "always", "never", "random")},
        "less": {
            name: interval([a - b for a, b in zip(columns["gated"], columns[name], strict=True)])
            for name in ("always", "never", "random")
        },
        "curve": {
            "share": shares.round(2).tolist(),
            "ndcg@10": np.mean([np.interp(shares, one.shares, one.values) for one in curves], axis=0).round(4).tolist(),
        },
    }


def _of_gate(one: Worth, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return one.margins, one.ndcg["queries"][0], one.ndcg["queries"][n]


def _mean(values) -> float:
    """Mean over collections of the means over their rows."""
    return round(float(np.mean([np.mean(one) for one in values])), 4)


def of_hit(explainer: Explainer, query: str, row: int, other_query: str, *, seed: int = 0) -> dict:
    """Score and rank of document ``row`` for ``query`` with each of :data:`OF_HIT` in place of the document's rationale,
    the query's, or both, among the documents as they are; and what was written in tokens.

    ``{"document": {treatment: {"score", "rank"}}, "query": …, "both": …, "tokens": {"query", "document", "query_text",
    "document_text"}, "other": id of the document whose rationale is put in, a random one}``. ``other_query`` is the query
    whose rationale is put in for the query's; its rationale is written if it is not in the cache. Raises GraceError for an
    index without rationales, or of a single document.
    """
    index, model, rng = explainer.index, explainer.model, np.random.default_rng([seed, row])
    if not index.manifest["rationale"]:
        raise GraceError(f"{index.folder} was built without rationales; there is none whose worth could be told")
    if len(index) < 2:
        raise GraceError(f"{index.folder} holds one document; another one's rationale and a rank take two at least")
    other = int(rng.choice(np.setdiff1d(np.arange(len(index)), [row])))
    rows = [row, other]
    asked = model.represent([query, other_query])
    options = {"rng": rng, "geometry": index.geometry}
    texts = [explainer.text(one) for one in rows]
    ids = [explainer.rationale_ids[one] for one in rows]
    documents = treated(model, texts, ids, index.sums[rows], index.counts[rows], role=Role.DOCUMENT, **options)
    queries = treated(
        model, [query, other_query], asked.rationale_ids, asked.sums, asked.counts, role=Role.QUERY, **options
    )
    vectors = index.vectors()

    def placed(query_treatment: str, document_treatment: str) -> dict:
        vector = queries[query_treatment][0]
        scores = dots(vectors, vector)
        if document_treatment != "own":
            scores[row] = dots(documents[document_treatment][:1], vector)[0]
        return {"score": float(scores[row]), "rank": rank(scores, row)}

    counts = {"query": asked.counts[0], "document": index.counts[row]}
    return {
        "document": {name: placed("own", name) for name in OF_HIT},
        "query": {name: placed(name, "own") for name in OF_HIT},
        "both": {name: placed(name, name) for name in OF_HIT},
        "tokens": {name: int(one[RATIONALE]) for name, one in counts.items()}
        | {f"{name}_text": int(one[TEXT]) for name, one in counts.items()},
        "other": index.ids[other],
    }
