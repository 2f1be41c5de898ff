"""``grace eval retrieval`` and ``grace eval faithfulness``: open collection and models, evaluate, and tell the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from grace_core.cache import RepresentationCache
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.evaluation import faithfulness, retrieval, stored
from grace_core.index import GraceIndex
from grace_core.pooling import Pooling


def retrieval_command(
    folder: Path, models: Sequence[str], *, split: str | None = None, where: str | None = None, bm25: bool = False, save: bool = False,
    device: str | None = None, **settings,
) -> tuple[dict, str]:  # fmt: skip
    """Metrics of every model, with its rationale and as "MODEL:text" without; ``settings`` that are not None override the index's.

    With ``where`` only documents that satisfy a filter are searched, for the queries that one of them is relevant to; BM25 knows of these
    documents only. ``save`` keeps rankings and rationales beside each index (:mod:`grace_core.evaluation.stored`).
    """
    given = {key: value for key, value in settings.items() if value is not None}
    if save and given:
        raise GraceError(f"only an evaluation with the index's own settings is kept: leave out --save, or {', '.join(given)}")
    if save and where is not None:
        raise GraceError("only an evaluation on all documents is kept: leave out --save, or --where")
    collection = Collection(folder)
    queries = retrieval.judged_queries(collection.judgements, split)
    qrels, corpus = collection.judgements.qrels, collection.corpus
    if where is not None:
        corpus = retrieval.narrowed(corpus, collection.mask(where))
        qrels = corpus.judgements.qrels
        queries = {query_id: text for query_id, text in queries.items() if query_id in qrels}
        if not queries:
            raise GraceError(f"no query has a relevant document among the {len(corpus.documents):,} that satisfy the filter: widen it")
    results = {}
    for name in models:
        index = GraceIndex.of_model(collection, name)
        loaded = index.load_model(device=device, cache=RepresentationCache(), **given)
        made = {}
        for pooling in (Pooling.TEXT, Pooling.FULL) if index.default_pooling is Pooling.FULL else (Pooling.TEXT,):
            made[pooling] = retrieval.retrieve(index, loaded, queries, pooling, where=where, progress=True)
            rankings = {query_id: row.ranking for query_id, row in made[pooling].items()}
            key = name if pooling is Pooling.FULL else f"{name}:text"
            results[key] = retrieval.summary(retrieval.per_query(rankings, qrels))
        loaded.close()
        if save:
            stored.save(index, made)
    if bm25:
        results["bm25"] = retrieval.summary(retrieval.per_query(retrieval.bm25(corpus, queries), qrels))
    among = "" if where is None else f", among {len(corpus.documents):,} documents that satisfy the filter"
    lines = [f"{len(queries)} queries{f', split {split}' if split else ''}{among}"]
    for name, row in results.items():
        cells = "  ".join(f"{m} {row[m]:.3f} [{row['ci95'][m][0]:.3f}, {row['ci95'][m][1]:.3f}]" for m in retrieval.METRICS)
        lines.append(f"{name:24s} {cells}")
    return results, "\n".join(lines)


def faithfulness_command(
    folder: Path, models: Sequence[str], *, split: str | None = None, queries: int | None = None, documents: int = 2000, seed: int = 0,
    device: str | None = None, report: Callable[[str], None] = lambda line: None,
) -> tuple[dict, str]:  # fmt: skip
    """The measures of :mod:`grace_core.evaluation.faithfulness` for every model; the same queries for all of them."""
    collection = Collection(folder)
    judged = retrieval.judged_queries(collection.judgements, split)
    chosen = faithfulness.choose_queries(judged, queries, seed=seed)
    results, lines = {}, []
    for name in models:
        index = GraceIndex.of_model(collection, name)
        loaded = index.load_model(device=device, cache=RepresentationCache())
        row = faithfulness.evaluate(index, loaded, chosen, collection.judgements.qrels, documents=documents, seed=seed, report=report)
        results[name] = row
        lines += [f"{name}: {row['queries']} queries, {row['documents']} documents; largest residual {row['max_residual']:.1e}"]
        if not row["rationales"]:
            lines += ["  without rationales: nothing to swap or to delete"]
            continue
        for role, found in row["roles"].items():
            lines += [f"  the {role}'s rationale: cosine with another text's instead {_told(found['swapped_cosine'])}"]
            for treatment, value in found["ndcg@10"].items():
                lost = f", lost {_told(found['drop'][treatment])}" if treatment in found["drop"] else ""
                lines.append(f"    nDCG@10 {treatment:9s} {_told(value)}{lost}")
            for way in faithfulness.ATTRIBUTIONS:
                cells = (f"{name.replace('_', ' ')} {_told(found[way][name])}" for name in ("deletion_gap", "insertion_gap", "agreement"))
                lines.append(f"    by {way}: {', '.join(cells)}")
            lines += [f"    {found['rationales']} rationales of {found['sentences']} sentences on average, {found['left_out']} left out"]
    return results, "\n".join(lines)


def _told(value: dict | None) -> str:
    if value is None:
        return "not measured"
    low, high = value["ci95"]
    return f"{value['mean']:.4f} [{low:.4f}, {high:.4f}]"
