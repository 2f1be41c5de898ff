"""``grace eval retrieval`` and ``grace eval faithfulness``: open collection and models, evaluate, and tell
the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from grace_core.cache import RepresentationCache
from grace_core.collection import Collection
from grace_core.columns.column import Column
from grace_core.columns.kinds import GraceColumn
from grace_core.columns.listing import is_model, read_name
from grace_core.columns.opened import Columns
from grace_core.errors import GraceError
from grace_core.evaluation import faithfulness, retrieval, stored
from grace_core.index import GraceIndex
from grace_core.pooling import Pooling
from grace_core.truncation import notes_on_cut_queries


def retrieval_command(
    folder: Path,
    models: Sequence[str],
    *,
    split: str | None = None,
    where: str | None = None,
    bm25: bool = False,
    against: str | None = None,
    save: bool = False,
    device: str | None = None,
    **settings,
) -> tuple[dict, str]:
    """Metrics of every column (docs/columns.md); a model stands for two, with its rationale and as
    "MODEL:text" without. ``settings`` that are not None override the index's. ``against`` is one of the rows,
    to which the others are compared.

    With ``where`` only documents that satisfy a filter are searched, for the queries that one of them is
    relevant to; BM25 knows of these documents only. ``save`` keeps rankings and rationales in the collection
    (:mod:`grace_core.evaluation.stored`).
    """
    given = {key: value for key, value in settings.items() if value is not None}
    if save and given:
        raise GraceError(
            f"only an evaluation with the index's own settings is kept: leave out --save, or {', '.join(given)}"
        )
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
            raise GraceError(
                f"no query has a relevant document among the {len(corpus.documents):,} that satisfy the filter: widen it"
            )
    results, values, columns = {}, {}, Columns(collection, device=device, cache=RepresentationCache())

    def add(
        key: str,
        rankings: dict[str, retrieval.Retrieved] | dict[str, list[str]],
        cut: int = 0,
        notes: Sequence[str] = (),
    ) -> None:
        values[key] = retrieval.per_query(
            {query: getattr(row, "ranking", row) for query, row in rankings.items()}, qrels
        )
        results[key] = retrieval.summary(values[key]) | {"truncated_queries": cut, "notes": list(notes)}

    plan = []  # of every model and column its index, and its rows with their poolings
    for text in models:
        name = read_name(collection, text)
        if not is_model(name):
            if given and any(part.kind == "grace" for part in getattr(name, "parts", ())):
                raise GraceError(f"{', '.join(given)} set a single model, and {name.id} is a fusion: leave them out")
            columns.canonical(text)  # a name that is not there is told before hours of work
            plan.append((text, None, {text: None}))
            continue
        index = GraceIndex.of_model(collection, name.model)
        if name.rationale is not None:
            rows = {text: Pooling.FULL if name.rationale else Pooling.TEXT}
        else:
            rows = {f"{text}:text": Pooling.TEXT}
            rows |= {text: Pooling.FULL} if index.default_pooling is Pooling.FULL else {}
        plan.append((text, index, rows))
    expected = [key for _, _, rows in plan for key in rows] + ["bm25"] * bm25
    if against is not None and against not in expected:
        raise GraceError(f"--against is {against!r}, expected one of the rows: {', '.join(expected)}")
    for text, index, rows in plan:
        if index is None:
            column = columns.open(text)
            cut, notes = cut_queries(column, list(queries.values()))
            ranked = retrieval.retrieve_by(column, queries, where=where)
            add(text, ranked, cut, notes)
            if save:
                stored.save_column(column, ranked)
            continue
        loaded = index.load_model(device=device, cache=RepresentationCache(), **given)
        evaluation, cut = {}, sum(loaded.prompts.build(query).text_truncated for query in queries.values())
        notes = notes_on_cut_queries(cut, len(queries), loaded.settings, positions=loaded.positions)
        for key, pooling in rows.items():
            evaluation[pooling] = retrieval.retrieve(index, loaded, queries, pooling, where=where, progress=True)
            add(key, evaluation[pooling], cut, notes)
        loaded.close()
        if save:
            stored.save(index, evaluation)
    if bm25:
        ranked = retrieval.bm25(corpus, queries)
        add("bm25", ranked)
        if save:
            kept = {query: retrieval.Retrieved(queries[query], tuple(ranking)) for query, ranking in ranked.items()}
            stored.save_column(columns.open("bm25"), kept)
    among = "" if where is None else f", among {len(corpus.documents):,} documents that satisfy the filter"
    lines = [f"{len(queries)} queries{f', split {split}' if split else ''}{among}"]
    wide = max(24, *map(len, results))
    for name, row in results.items():
        lines.append(f"{name:{wide}s} {'  '.join(cell(row, metric) for metric in retrieval.METRICS)}")
    if against is not None:
        lines.append(f"difference to {against}, paired by query")
        for name in results:
            if name != against:
                row = retrieval.difference(values[against], values[name])
                results[name]["difference"] = {"against": against, **row}
                lines.append(f"{name:{wide}s} {'  '.join(cell(row, metric, sign='+') for metric in retrieval.METRICS)}")
    notes = {f"{name.removesuffix(':text')}: {note}": None for name, row in results.items() for note in row["notes"]}
    return results, "\n".join([*lines, *(f"note: {note}" for note in notes)])


def cut_queries(column: Column, queries: Sequence[str]) -> tuple[int, list[str]]:
    """How many queries are longer than a column reads, and a line for each of its parts that reads less."""
    notes = []
    for part in getattr(column, "parts", [column]):
        cut = int((part.left_out(queries) > 0).sum())
        if isinstance(part, GraceColumn):
            model = part.explainer.model
            lines = notes_on_cut_queries(cut, len(queries), model.settings, positions=model.positions)
            notes += lines if part is column else [f"{part.id}: {line}" for line in lines]
        elif cut:
            many = "is longer than {} reads: shorten it" if cut == 1 else "are longer than {} reads: shorten them"
            notes.append(f"{cut:,} of {len(queries):,} queries {many.format(part.id)}")
    return int((column.left_out(queries) > 0).sum()), notes


def cell(row: dict, metric: str, *, sign: str = "") -> str:
    """A metric with its interval, for a line of text."""
    low, high = row["ci95"][metric]
    return f"{metric} {row[metric]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def faithfulness_command(
    folder: Path,
    models: Sequence[str],
    *,
    split: str | None = None,
    queries: int | None = None,
    documents: int = 2000,
    seed: int = 0,
    device: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[dict, str]:
    """The measures of :mod:`grace_core.evaluation.faithfulness` for every model; the same queries for all of them."""
    collection = Collection(folder)
    judged = retrieval.judged_queries(collection.judgements, split)
    chosen = faithfulness.choose_queries(judged, queries, seed=seed)
    results, lines = {}, []
    for name in models:
        index = GraceIndex.of_model(collection, name)
        loaded = index.load_model(device=device, cache=RepresentationCache())
        row = faithfulness.evaluate(
            index, loaded, chosen, collection.judgements.qrels, documents=documents, seed=seed, report=report
        )
        results[name] = row
        split = f" in {row['passages']} passages" if "passages" in row else ""
        lines += [
            f"{name}: {row['queries']} queries, {row['documents']} documents{split}; largest residual {row['max_residual']:.1e}"
        ]
        if not row["rationales"]:
            lines += ["  without rationales: nothing to swap or to delete"]
            continue
        for role, measures in row["roles"].items():
            lines += [
                f"  the {role}'s rationale: cosine with another text's instead {_with_interval(measures['swapped_cosine'])}"
            ]
            for treatment, value in measures["ndcg@10"].items():
                lost = f", lost {_with_interval(measures['drop'][treatment])}" if treatment in measures["drop"] else ""
                lines.append(f"    nDCG@10 {treatment:9s} {_with_interval(value)}{lost}")
            for way in faithfulness.ATTRIBUTIONS:
                cells = (
                    f"{name.replace('_', ' ')} {_with_interval(measures[way][name])}"
                    for name in ("deletion_gap", "insertion_gap", "agreement")
                )
                lines.append(f"    by {way}: {', '.join(cells)}")
            lines += [
                f"    {measures['rationales']} rationales of {measures['sentences']} sentences on average, {measures['left_out']} left out"
            ]
    return results, "\n".join(lines)


def _with_interval(value: dict | None) -> str:
    if value is None:
        return "not measured"
    low, high = value["ci95"]
    return f"{value['mean']:.4f} [{low:.4f}, {high:.4f}]"
