"""The study's figures from all measured runs: means with intervals over seeds and queries, and paired differences.

A way's values are an array ``(seeds, queries)``. Intervals: 95 %, percentile bootstrap that resamples seeds and
queries with replacement; for a difference of two ways the same queries for both, and seeds for each
separately.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from grace_core.errors import GraceError
from grace_core.evaluation.bootstrap import ci95, of_seeds
from grace_core.files import read_json
from grace_core.training.config import load_config
from grace_study.probes import GRADES, spearman
from grace_study.ship import CONFIGS
from grace_study.study import ABLATIONS, SHORT, WAYS

DECODINGS = ("text", "greedy", "sampled")
REPORTED = ("ndcg@10", "recall@10", "mrr@10")  # of what the kept results hold
LAST_STEP = ", last step"  # after the name of a way: its model after the last step, not the best one
TRADE_OFF = ("demo-grace.yaml", "demo-grace-joint.yaml")  # whose ways differ in the weights of contrastive loss and KL


def read(runs: Path) -> dict[str, list[dict]]:
    """Measured runs by way, in the order of seeds. Raises GraceError if there are none.

    Where the model after the last step was measured as well, it represents the way, since the best one is the
    starting model.
    """
    runs_of = {}
    for way in WAYS:
        measured = sorted(
            (read_json(path) for path in runs.glob(f"{way}-seed*/measured.json")), key=lambda row: row["seed"]
        )
        if any("last" in row for row in measured):
            runs_of[way + LAST_STEP] = [{"seed": row["seed"], **row["last"]} for row in measured if "last" in row]
        elif measured:
            runs_of[way] = measured
    if not runs_of:
        raise GraceError(f"{runs} holds no measured run; make one with `grace demo study --way base`")
    return runs_of


def values(rows: list[dict], decoding: str, metric: str) -> np.ndarray:
    """Values ``(seeds, queries)``; greedy and text-only values of the untrained model repeat for every seed."""
    return np.array([row["decodings"][decoding][metric] for row in rows])


def interval(sample: np.ndarray) -> list[float]:
    return [round(bound, 4) for bound in ci95(sample)]


def difference(a: np.ndarray, b: np.ndarray) -> dict:
    """Mean of a minus mean of b, with its interval."""
    first, second = of_seeds([a, b])
    return {"difference": round(float(a.mean() - b.mean()), 4), "ci95": interval(first - second)}


def table(runs: Path) -> dict:
    """``{"rows": [{way, decoding, seeds, metrics, ci95, tokens}], "probes", "abilities",
    "differences": [{way, decoding, against, difference, ci95}], "words_and_geometry", "ablations", "trade_off"}``."""
    # means of every way and decoding
    runs_of = read(runs)
    rows, probes, cells = [], [], {}
    for way, measured in runs_of.items():
        for decoding in DECODINGS:
            if decoding not in measured[0]["decodings"]:
                continue
            arrays = {metric: values(measured, decoding, metric) for metric in REPORTED}
            cells[way, decoding] = arrays["ndcg@10"]
            tokens = [row["decodings"][decoding].get("query_tokens", 0.0) for row in measured]
            rows.append(
                {
                    "way": way,
                    "decoding": decoding,
                    "seeds": len(measured),
                    **{metric: round(float(array.mean()), 4) for metric, array in arrays.items()},
                    "ci95": {metric: interval(of_seeds([array])[0]) for metric, array in arrays.items()},
                    "query_tokens": round(float(np.mean(tokens)), 1),
                }
            )
            if all("kind" in row["decodings"][decoding] for row in measured):  # BM25 has no vectors
                probes.append({"way": way, "decoding": decoding, "seeds": len(measured), **_probes(measured, decoding)})
    # differences from the base and from CL
    differences = [
        {
            "way": way,
            "decoding": decoding,
            "against": {"way": peer[0], "decoding": peer[1]},
            **difference(array, cells[peer]),
        }
        for (way, decoding), array in cells.items()
        if decoding != "text" and way != "base"
        for peer in (("base", "text"), ("base", decoding), ("cl", "text"))
        if peer in cells
    ]
    # remaining abilities
    abilities = {
        way: {name: [round(row["abilities"][name], 4) for row in measured] for name in ("perplexity", "fact_accuracy")}
        for way, measured in runs_of.items()
        if "abilities" in measured[0]
    }
    return {
        "rows": rows,
        "probes": probes,
        "abilities": abilities,
        "differences": differences,
        "words_and_geometry": {way: cell for way, measured in runs_of.items() if (cell := _crossed(measured))},
        "ablations": _ablations(cells),
        "trade_off": _trade_off(runs_of, abilities),
    }


def _crossed(measured: list[dict]) -> dict:
    """nDCG@10 for rationales of the starting or the trained model, in vectors of either."""
    tables = [row["words_and_geometry"] for row in measured if "words_and_geometry" in row]
    crossed = {}
    for words, geometry in itertools.product(("base", "trained"), repeat=2) if tables else ():
        array = np.array([crossing[words][geometry] for crossing in tables])
        crossed[f"{words} words, {geometry} geometry"] = {
            "ndcg@10": round(float(array.mean()), 4),
            "ci95": interval(of_seeds([array])[0]),
        }
    return crossed


def _ablations(cells: dict[tuple[str, str], np.ndarray]) -> dict:
    """``{way: {"against": way, decoding: difference}}``."""
    differences = {}
    for (way, decoding), array in cells.items():
        whole = way.split("-")[0] + (LAST_STEP if way.endswith(LAST_STEP) else "")
        if way.removesuffix(LAST_STEP) in ABLATIONS and decoding != "text" and (whole, decoding) in cells:
            differences.setdefault(way, {"against": whole})[decoding] = difference(array, cells[whole, decoding])
    return differences


def _trade_off(runs_of: dict[str, list[dict]], abilities: dict) -> dict:
    """``{way: {weight, kl, text, greedy, sampled, base_words, perplexity, fact_accuracy, seeds}}``, sorted by KL
    and weight; ``weight`` is that of the contrastive loss, None for ways without one."""
    ways = {}
    for way, rows in runs_of.items():
        file, overrides = WAYS.get(way, ("", ()))
        if way in ("base", "cl", "simcse"):
            weight, kl = None, None
        elif file in TRADE_OFF and all(
            change.split("=")[0] in ("beta", "contrastive_weight") for change in set(overrides) - set(SHORT)
        ):
            config = load_config(CONFIGS / file, overrides)
            weight, kl = config.contrastive_weight if config.objective == "joint" else 0.0, config.beta
        else:
            continue
        mean = {name: float(values(rows, name, "ndcg@10").mean()) for name in DECODINGS if name in rows[0]["decodings"]}
        base_words = [
            np.mean(row["words_and_geometry"]["base"]["trained"]) for row in rows if "words_and_geometry" in row
        ]
        ways[way] = {
            "weight": weight,
            "kl": kl,
            "seeds": len(rows),
            **{name: round(value, 4) for name, value in mean.items()},
            **({"base_words": round(float(np.mean(base_words)), 4)} if base_words else {}),
            **{name: float(np.mean(of_seeds)) for name, of_seeds in abilities[way].items()},
        }
    return dict(
        sorted(
            ways.items(), key=lambda item: (item[1]["weight"] is not None, item[1]["kl"] or 0, item[1]["weight"] or 0)
        )
    )


def _probes(measured: list[dict], decoding: str) -> dict:
    """Accuracy of the kind, and the rank correlation of similarity, with a bootstrap over things and seeds."""
    kinds, cosines = values(measured, decoding, "kind"), values(measured, decoding, "similarity")
    rng, things = np.random.default_rng(0), cosines.shape[1] // len(GRADES)
    drawn = []
    for _ in range(300):  # fewer than for means, since each needs rank correlations
        of = cosines[rng.integers(0, len(cosines), len(cosines))].reshape(len(cosines), things, len(GRADES))
        drawn.append(np.mean([spearman(row.ravel()) for row in of[:, rng.integers(0, things, things)]]))
    return {
        "kind_accuracy": round(float(kinds.mean()), 4),
        "similarity_spearman": round(float(np.mean([spearman(row) for row in cosines])), 4),
        "ci95": {"kind_accuracy": interval(of_seeds([kinds])[0]), "similarity_spearman": interval(np.array(drawn))},
    }
