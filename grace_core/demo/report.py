"""Tables of the study, from whatever runs are measured: means with intervals over seeds and queries, and paired differences.

A way's values are an array ``(seeds, queries)``. Intervals: 95 %, percentile bootstrap that draws seeds and queries anew, both with
replacement; for a difference of two ways the same queries on both sides (they are the same questions) and seeds for each of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from grace_core.demo.probes import GRADES, spearman
from grace_core.demo.study import WAYS
from grace_core.errors import GraceError
from grace_core.evaluation.retrieval import METRICS, RESAMPLES
from grace_core.files import read_json

DECODINGS = ("text", "greedy", "sampled")


def read(runs: Path) -> dict[str, list[dict]]:
    """Measured runs by way, in the order of seeds. Raises GraceError if there are none."""
    found = {}
    for way in WAYS:
        made = [read_json(path) for path in runs.glob(f"{way}-seed*/measured.json")]
        if made:
            found[way] = sorted(made, key=lambda row: row["seed"])
        if last := [{"seed": row["seed"], **row["last"]} for row in found.get(way, ()) if "last" in row]:
            found[f"{way}, last step"] = last
    if not found:
        raise GraceError(f"{runs} holds no measured run; make one with `grace demo study --way base`")
    return found


def values(rows: list[dict], decoding: str, metric: str) -> np.ndarray:
    """``(seeds, queries)``; greedy and text-only values of the untrained model repeat for every seed."""
    return np.array([row["decodings"][decoding][metric] for row in rows])


def draws(arrays: list[np.ndarray], *, seed: int = 0) -> list[np.ndarray]:
    """Bootstrap means ``(RESAMPLES,)`` of each array ``(seeds, queries)``; the arrays share their queries' draws."""
    rng = np.random.default_rng(seed)
    n = arrays[0].shape[1]
    weights = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(RESAMPLES)]) / n
    made = []
    for array in arrays:
        of_seeds = rng.integers(0, len(array), (RESAMPLES, len(array)))
        by_seed = weights @ array.T  # (resamples, seeds)
        made.append(np.take_along_axis(by_seed, of_seeds, axis=1).mean(axis=1))
    return made


def interval(sample: np.ndarray) -> list[float]:
    return [round(float(x), 4) for x in np.percentile(sample, [2.5, 97.5])]


def difference(a: np.ndarray, b: np.ndarray) -> dict:
    """Mean of a minus mean of b, with its interval."""
    first, second = draws([a, b])
    return {"difference": round(float(a.mean() - b.mean()), 4), "ci95": interval(first - second)}


def table(runs: Path) -> dict:
    """``{"rows": [{way, decoding, seeds, metrics, ci95, tokens}], "probes", "abilities", "differences", "words_and_geometry"}``."""
    found = read(runs)
    rows, probes, cells = [], [], {}
    for way, made in found.items():
        for decoding in DECODINGS:
            if decoding not in made[0]["decodings"]:
                continue
            arrays = {metric: values(made, decoding, metric) for metric in METRICS}
            cells[way, decoding] = arrays["ndcg@10"]
            tokens = [row["decodings"][decoding].get("query_tokens", 0.0) for row in made]
            rows.append({
                "way": way, "decoding": decoding, "seeds": len(made),
                **{metric: round(float(array.mean()), 4) for metric, array in arrays.items()},
                "ci95": {metric: interval(draws([array])[0]) for metric, array in arrays.items()},
                "query_tokens": round(float(np.mean(tokens)), 1),
            })  # fmt: skip
            if all("kind" in row["decodings"][decoding] for row in made):  # BM25 has no vectors
                probes.append({"way": way, "decoding": decoding, "seeds": len(made), **_probes(made, decoding)})
    differences = {}
    for (way, decoding), array in cells.items():
        if way in ("bm25", "base", "cl", "simcse"):
            continue
        for other in (("base", "text"), ("base", decoding), ("cl", "text")):
            if other in cells and other != (way, decoding):
                differences[f"{way} {decoding} - {' '.join(other)}"] = difference(array, cells[other])
    kept = {
        way: {name: [round(row["abilities"][name], 4) for row in made] for name in ("perplexity", "fact_accuracy")}
        for way, made in found.items() if "abilities" in made[0]
    }  # fmt: skip
    crossed = {}
    for way, made in found.items():
        tables = [row["words_and_geometry"] for row in made if "words_and_geometry" in row]
        if tables:
            cell = {(w, g): np.array([one[w][g] for one in tables]) for w in ("base", "trained") for g in ("base", "trained")}
            crossed[way] = {
                f"{w} words, {g} geometry": {"ndcg@10": round(float(array.mean()), 4), "ci95": interval(draws([array])[0])}
                for (w, g), array in cell.items()
            }
    return {"rows": rows, "probes": probes, "abilities": kept, "differences": differences, "words_and_geometry": crossed}


def _probes(made: list[dict], decoding: str) -> dict:
    """Accuracy of the kind, and the rank correlation of similarity; its bootstrap draws things and seeds."""
    kinds, cosines = values(made, decoding, "kind"), values(made, decoding, "similarity")
    rng, things = np.random.default_rng(0), cosines.shape[1] // len(GRADES)
    drawn = []
    for _ in range(300):  # a rank correlation each, where a mean is a product
        of = cosines[rng.integers(0, len(cosines), len(cosines))].reshape(len(cosines), things, len(GRADES))
        drawn.append(np.mean([spearman(row.ravel()) for row in of[:, rng.integers(0, things, things)]]))
    return {
        "kind_accuracy": round(float(kinds.mean()), 4), "similarity_spearman": round(float(np.mean([spearman(row) for row in cosines])), 4),
        "ci95": {"kind_accuracy": interval(draws([kinds])[0]), "similarity_spearman": interval(np.array(drawn))},
    }  # fmt: skip


def markdown(made: dict) -> str:
    """The tables for the documentation."""
    lines = ["| way | decoding | seeds | nDCG@10 | Recall@10 | MRR@10 | tokens a query's rationale |", "|---|---|---|---|---|---|---|"]
    for row in made["rows"]:
        cells = [_cell(row[m], row["ci95"][m]) for m in METRICS]
        lines.append(f"| {row['way']} | {row['decoding']} | {row['seeds']} | {' | '.join(cells)} | {row['query_tokens']:.0f} |")
    if made["probes"]:
        lines += ["", "| way | decoding | seeds | kind of thing | similarity |", "|---|---|---|---|---|"]
    for row in made["probes"]:
        cells = [_cell(row[m], row["ci95"][m]) for m in ("kind_accuracy", "similarity_spearman")]
        lines.append(f"| {row['way']} | {row['decoding']} | {row['seeds']} | {' | '.join(cells)} |")
    lines += ["", "| way | perplexity | against base | fact accuracy | against base |", "|---|---|---|---|---|"]
    base = made["abilities"].get("base")
    for way, kept in made["abilities"].items():
        cells = []
        for name, digits in (("perplexity", 2), ("fact_accuracy", 3)):
            mean = float(np.mean(kept[name]))
            change = f"{100 * (mean / np.mean(base[name]) - 1):+.1f} %" if base else ""
            cells += [f"{mean:.{digits}f}", change]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    if made["words_and_geometry"]:
        heads = list(next(iter(made["words_and_geometry"].values())))
        lines += ["", f"| nDCG@10, greedy | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for way, row in made["words_and_geometry"].items():
            cells = [_cell(cell["ndcg@10"], cell["ci95"]) for cell in row.values()]
            lines.append(f"| {way} | {' | '.join(cells)} |")
    lines += ["", "| nDCG@10 | difference |", "|---|---|"]
    for name, row in made["differences"].items():
        lines.append(f"| {name.replace(' - ', ' − ')} | {row['difference']:+.3f} [{row['ci95'][0]:+.3f}, {row['ci95'][1]:+.3f}] |")
    return "\n".join(lines)


def _cell(value: float, ci95: list[float]) -> str:
    return f"{value:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]"
