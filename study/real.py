"""Ways to rank, measured on real collections and compared.

A *way* is a model (its name or folder), a sentence encoder (``st:NAME``), or BM25. A fixed sample of queries and
documents is drawn from each collection's test split (:meth:`Judged.sample`). Texts and greedy rationales are encoded
once; the columns, with nDCG@10 of every query, are computed from the part sums:

    text raw, rationale raw                  the published geometry, one mean
    text calibrated, rationale calibrated    the default geometry (:mod:`grace_core.geometry`), fitted to the sample's documents
    encoder                                  a sentence encoder's cosine
    … + bm25                                 the sum of both scores, each standardised over the documents of a query

The results of a way are one file for each collection, so that a stopped run continues where it was; tables use
whatever files exist. A way with several seeds has several folders ``NAME-seedN``. Intervals: 95 %, percentile
bootstrap that resamples seeds, collections and, in each, queries; a difference is paired by query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grace_core.columns.bm25 import Bm25
from grace_core.columns.encoder import Encoder
from grace_core.errors import GraceError
from grace_core.evaluation.bootstrap import ci95, of_hierarchy
from grace_core.evaluation.retrieval import Judged, per_query
from grace_core.files import read_json, write_json
from grace_core.geometry import RAW, Geometry, Role, fit
from grace_core.model import GraceModel, Representations
from grace_core.pooling import Pooling
from grace_core.ranking import order
from grace_core.readers import read_corpus
from grace_core.sources import DEMO_CORPUS_DIR
from grace_core.training.reward import novelty

QUERIES, DOCUMENTS = 48, 160
LEXICAL = "bm25"
WITH = " + bm25"
COLUMNS = ("text raw", "rationale raw", "text calibrated", "rationale calibrated")


def ndcg(judged: Judged, scores: np.ndarray) -> np.ndarray:
    """nDCG@10 ``(m,)`` of scores ``(m, n)`` of the documents, ties in their order."""
    ids = list(judged.documents)
    rankings = {
        query: [ids[row] for row in order(row_scores, 10)]
        for query, row_scores in zip(judged.queries, scores, strict=True)
    }
    return per_query(rankings, judged.qrels)["ndcg@10"]


def standardised(scores: np.ndarray) -> np.ndarray:
    """Scores ``(m, n)`` with mean 0 and deviation 1 over each query's documents; a query whose scores are all
    equal gets zeros.
    """
    deviation = scores.std(axis=1, keepdims=True)
    return (scores - scores.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1)


def lexical_scores(judged: Judged) -> np.ndarray:
    """BM25 scores ``(m, n)`` of all documents."""
    index = Bm25(list(judged.documents.values()))
    return np.stack([index.scores(query) for query in judged.queries.values()])


def measure(model: GraceModel, judged: Judged, *, batch_size: int = 64, progress: bool = False) -> dict:
    """nDCG@10 of every query by column, figures of the rationales, and examples."""
    options = {"batch_size": batch_size, "progress": progress}
    documents = model.represent(list(judged.documents.values()), **options)
    queries = model.represent(list(judged.queries.values()), **options)
    calibrated = fit("calibrated", (documents.sums, documents.counts), model=model.statistics)
    lexical = standardised(lexical_scores(judged))
    columns = {}
    for name, geometry in (("raw", RAW), ("calibrated", calibrated)):
        for pooling in Pooling:
            scores = _scores(geometry, pooling, queries, documents)
            column = f"{'text' if pooling is Pooling.TEXT else 'rationale'} {name}"
            columns[column] = ndcg(judged, scores).tolist()
            columns[column + WITH] = ndcg(judged, standardised(scores) + lexical).tolist()
    return {
        "queries": list(judged.queries),
        "documents": len(judged.documents),
        "columns": columns,
        "rationales": {
            side: {
                "tokens": float(written.counts[:, 2].mean()),
                "truncated": float(np.mean(written.truncated)),
                "novelty": _mean(
                    [
                        novelty(text, rationale)
                        for text, rationale in zip(texts.values(), written.rationales, strict=True)
                    ]
                ),
            }
            for side, written, texts in (
                ("queries", queries, judged.queries),
                ("documents", documents, judged.documents),
            )
        },
        "examples": [
            [text, rationale]
            for text, rationale in zip(list(judged.queries.values())[:8], queries.rationales, strict=False)
        ],
    }


def measure_encoder(encoder: Encoder, judged: Judged) -> dict:
    """nDCG@10 of every query by an encoder's cosine, alone and with BM25."""
    documents = encoder.encode(list(judged.documents.values()), role=Role.DOCUMENT).vectors
    scores = encoder.encode(list(judged.queries.values()), role=Role.QUERY).vectors @ documents.T
    fused = standardised(scores) + standardised(lexical_scores(judged))
    return {
        "queries": list(judged.queries),
        "documents": len(judged.documents),
        "columns": {"encoder": ndcg(judged, scores).tolist(), "encoder" + WITH: ndcg(judged, fused).tolist()},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _scores(geometry: Geometry, pooling: Pooling, queries: Representations, documents: Representations) -> np.ndarray:
    query_vectors = geometry.vectors(queries.sums, queries.counts, pooling, Role.QUERY)
    return query_vectors @ geometry.vectors(documents.sums, documents.counts, pooling).T


def run(
    way: str,
    load: Callable[[], GraceModel | Encoder],
    data: Sequence[Path],
    out: Path,
    *,
    split: str = "test",
    queries: int = QUERIES,
    documents: int = DOCUMENTS,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Measures ``way`` on the collections that it has no file for in ``out``; ``load`` is called at most once."""
    model = None
    for folder in data:
        name = "demo" if folder == DEMO_CORPUS_DIR else folder.name
        file = out / way / f"{name}.json"
        if file.exists():
            continue
        corpus = read_corpus(str(folder))
        judged = Judged.sample(corpus, split=_split(corpus, split), queries=queries, documents=documents)
        if way == LEXICAL:
            result = {
                "queries": list(judged.queries),
                "columns": {LEXICAL: ndcg(judged, lexical_scores(judged)).tolist()},
            }
        else:
            model = model or load()
            result = measure_encoder(model, judged) if isinstance(model, Encoder) else measure(model, judged)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, result)
        report(
            f"{way} {name}: " + ", ".join(f"{name} {np.mean(values):.3f}" for name, values in result["columns"].items())
        )


def _split(corpus, split: str) -> str | None:
    """``split``, or None for all queries if the collection has no such split."""
    return split if split in set(corpus.judgements.splits.values()) else None


@dataclass(frozen=True)
class Measured:
    """nDCG@10 of ways: ``values[way][seed][collection][column]`` is an array ``(m,)``, with the same order of
    queries everywhere.
    """

    values: dict[str, list[dict[str, dict[str, np.ndarray]]]]

    @classmethod
    def read(cls, folder: Path) -> Measured:
        """All ways in ``folder``. Raises GraceError if there are none, or if they were measured on different queries."""
        values: dict[str, list] = {}
        queries: dict[str, tuple[Path, list[str]]] = {}
        for way in sorted(path for path in folder.glob("*") if path.is_dir()):
            measured = {}
            for file in sorted(way.glob("*.json")):
                result = read_json(file)
                first, names = queries.setdefault(file.stem, (file, result["queries"]))
                if names != result["queries"]:
                    raise GraceError(
                        f"{file} has other queries than {first}: measure both with the same sizes of samples"
                    )
                measured[file.stem] = {name: np.array(column) for name, column in result["columns"].items()}
            if measured:
                values.setdefault(re.sub(r"-seed\d+$", "", way.name), []).append(measured)
        if not values:
            raise GraceError(f"{folder} holds nothing that was measured")
        return cls(values)

    def of(self, way: str, column: str, collections: Sequence[str]) -> list[np.ndarray]:
        """``(seeds, m)`` of each collection."""
        return [np.stack([seed[name][column] for seed in self.values[way]]) for name in collections]


def interval(values: list[np.ndarray], *, collections: bool = True) -> dict:
    """Mean over collections of means ``(seeds, m)``, with an interval over seeds, collections (or not these)
    and queries.
    """
    mean = float(np.mean([collection.mean() for collection in values]))
    return {"mean": mean, "ci95": ci95(of_hierarchy(values, redraw_groups=collections))}


def difference(measured: Measured, a: tuple[str, str], b: tuple[str, str], names: Sequence[str], **options) -> dict:
    """a − b, each (way, column), paired by query; a way with one seed is compared with every seed of the other."""
    first, second = measured.of(*a, names), measured.of(*b, names)
    return interval(
        [x - (y if len(x) == len(y) else y.mean(axis=0)) for x, y in zip(first, second, strict=True)], **options
    )


def table(measured: Measured, *, trained_on: Sequence[str] = (), against: tuple[str, str] | None = None) -> dict:
    """Means of every way and column by collection, over all, over those in ``trained_on`` and over the others, and
    differences from ``against``. Only collections that every way was measured on are included.
    """
    measured_on = [set(seed) for seeds in measured.values.values() for seed in seeds]
    names = sorted(set.intersection(*measured_on))
    groups = {
        "all": names,
        "trained on": [n for n in names if n in trained_on],
        "unseen": [n for n in names if n not in trained_on],
    }
    result: dict = {"collections": names, "columns": {}, "differences": {}}
    for way, seeds in measured.values.items():
        for column in dict.fromkeys(name for seed in seeds for columns in seed.values() for name in columns):
            key = way if column == way else f"{way} {column}"
            result["columns"][key] = {"seeds": len(seeds)} | {
                name: float(np.mean([seed[name][column].mean() for seed in seeds])) for name in names
            }
            for group, members in groups.items():
                if members:
                    result["columns"][key][group] = interval(measured.of(way, column, members))
                    if against and (way, column) != against:
                        apart = difference(measured, (way, column), against, members)
                        result["differences"].setdefault(key, {})[group] = apart
    return result


def markdown(result: dict) -> str:
    """The table as Markdown: a row for each way and column."""
    groups = [
        name for name in ("all", "trained on", "unseen") if any(name in row for row in result["columns"].values())
    ]
    lines = [
        f"| | {' | '.join([*result['collections'], *groups])} |",
        "|---" * (1 + len(result["collections"]) + len(groups)) + "|",
    ]
    for key, row in result["columns"].items():
        means = [f"{row[name]:.3f}" for name in result["collections"]]
        lines.append(f"| {key} | {' | '.join([*means, *(_with_interval(row[group]) for group in groups)])} |")
    if result["differences"]:
        lines += ["", f"| difference | {' | '.join(groups)} |", "|---" * (1 + len(groups)) + "|"]
        for key, row in result["differences"].items():
            lines.append(f"| {key} | {' | '.join(_with_interval(row[group], sign='+') for group in groups)} |")
    return "\n".join(lines)


def _with_interval(value: dict, sign: str = "") -> str:
    return f"{value['mean']:{sign}.3f} [{value['ci95'][0]:{sign}.3f}, {value['ci95'][1]:{sign}.3f}]"
