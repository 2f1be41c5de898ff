"""Figures of the study, from whatever runs are measured: means with intervals over seeds and queries, and
paired differences.

A way's values are an array ``(seeds, queries)``. Intervals: 95 %, percentile bootstrap that draws seeds and
queries anew, both with replacement; for a difference of two ways the same queries on both sides (they are the
same questions) and seeds for each of its own.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from grace_core.errors import GraceError
from grace_core.evaluation.bootstrap import ci95, of_seeds
from grace_core.evaluation.retrieval import METRICS
from grace_core.files import read_json
from grace_core.training.config import load_config
from grace_study.probes import GRADES, spearman
from grace_study.ship import CONFIGS
from grace_study.study import ABLATIONS, SHORT, WAYS

DECODINGS = ("text", "greedy", "sampled")
LAST_STEP = ", last step"  # behind the name of a way whose model after the last step is meant, not the best one
TRADE_OFF = (
    "demo-grace.yaml",
    "demo-grace-joint.yaml",
)  # of ways that differ in the weight of a contrastive loss, and of the KL


def read(runs: Path) -> dict[str, list[dict]]:
    """Measured runs by way, in the order of seeds. Raises GraceError if there are none.

    Where the model after the last step was measured as well, it stands for the way: the best one is then the
    starting model.
    """
    found = {}
    for way in WAYS:
        made = sorted(
            (read_json(path) for path in runs.glob(f"{way}-seed*/measured.json")), key=lambda row: row["seed"]
        )
        if any("last" in row for row in made):
            found[way + LAST_STEP] = [{"seed": row["seed"], **row["last"]} for row in made if "last" in row]
        elif made:
            found[way] = made
    if not found:
        raise GraceError(f"{runs} holds no measured run; make one with `grace demo study --way base`")
    return found


def values(rows: list[dict], decoding: str, metric: str) -> np.ndarray:
    """``(seeds, queries)``; greedy and text-only values of the untrained model repeat for every seed."""
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
    found = read(runs)
    rows, probes, cells = [], [], {}
    for way, made in found.items():
        for decoding in DECODINGS:
            if decoding not in made[0]["decodings"]:
                continue
            arrays = {metric: values(made, decoding, metric) for metric in METRICS}
            cells[way, decoding] = arrays["ndcg@10"]
            tokens = [row["decodings"][decoding].get("query_tokens", 0.0) for row in made]
            rows.append(
                {
                    "way": way,
                    "decoding": decoding,
                    "seeds": len(made),
                    **{metric: round(float(array.mean()), 4) for metric, array in arrays.items()},
                    "ci95": {metric: interval(of_seeds([array])[0]) for metric, array in arrays.items()},
                    "query_tokens": round(float(np.mean(tokens)), 1),
                }
            )
            if all("kind" in row["decodings"][decoding] for row in made):  # BM25 has no vectors
                probes.append({"way": way, "decoding": decoding, "seeds": len(made), **_probes(made, decoding)})
    differences = [
        {
            "way": way,
            "decoding": decoding,
            "against": {"way": other[0], "decoding": other[1]},
            **difference(array, cells[other]),
        }
        for (way, decoding), array in cells.items()
        if decoding != "text" and way != "base"
        for other in (("base", "text"), ("base", decoding), ("cl", "text"))
        if other in cells
    ]
    kept = {
        way: {name: [round(row["abilities"][name], 4) for row in made] for name in ("perplexity", "fact_accuracy")}
        for way, made in found.items()
        if "abilities" in made[0]
    }
    return {
        "rows": rows,
        "probes": probes,
        "abilities": kept,
        "differences": differences,
        "words_and_geometry": {way: cell for way, made in found.items() if (cell := _crossed(made))},
        "ablations": _ablations(cells),
        "trade_off": _trade_off(found, kept),
    }


def _crossed(made: list[dict]) -> dict:
    """Rationales of the starting or the trained model, in vectors of either."""
    tables = [row["words_and_geometry"] for row in made if "words_and_geometry" in row]
    crossed = {}
    for words, geometry in itertools.product(("base", "trained"), repeat=2) if tables else ():
        array = np.array([one[words][geometry] for one in tables])
        crossed[f"{words} words, {geometry} geometry"] = {
            "ndcg@10": round(float(array.mean()), 4),
            "ci95": interval(of_seeds([array])[0]),
        }
    return crossed


def _ablations(cells: dict[tuple[str, str], np.ndarray]) -> dict:
    """``{way: {"against": way, decoding: difference}}``."""
    made = {}
    for (way, decoding), array in cells.items():
        whole = way.split("-")[0] + (LAST_STEP if way.endswith(LAST_STEP) else "")
        if way.removesuffix(LAST_STEP) in ABLATIONS and decoding != "text" and (whole, decoding) in cells:
            made.setdefault(way, {"against": whole})[decoding] = difference(array, cells[whole, decoding])
    return made


def _trade_off(found: dict[str, list[dict]], abilities: dict) -> dict:
    """``{way: {weight, kl, text, greedy, sampled, base_words, perplexity, fact_accuracy, seeds}}``, by KL and
    weight; ``weight`` is the contrastive loss's, and None for what has none."""
    made = {}
    for way, rows in found.items():
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
        read = [np.mean(row["words_and_geometry"]["base"]["trained"]) for row in rows if "words_and_geometry" in row]
        made[way] = {
            "weight": weight,
            "kl": kl,
            "seeds": len(rows),
            **{name: round(value, 4) for name, value in mean.items()},
            **({"base_words": round(float(np.mean(read)), 4)} if read else {}),
            **{name: float(np.mean(of_seeds)) for name, of_seeds in abilities[way].items()},
        }
    return dict(
        sorted(
            made.items(), key=lambda item: (item[1]["weight"] is not None, item[1]["kl"] or 0, item[1]["weight"] or 0)
        )
    )


def _probes(made: list[dict], decoding: str) -> dict:
    """Accuracy of the kind, and the rank correlation of similarity; its bootstrap draws things and seeds."""
    kinds, cosines = values(made, decoding, "kind"), values(made, decoding, "similarity")
    rng, things = np.random.default_rng(0), cosines.shape[1] // len(GRADES)
    drawn = []
    for _ in range(300):  # a rank correlation each, where a mean is a product
        of = cosines[rng.integers(0, len(cosines), len(cosines))].reshape(len(cosines), things, len(GRADES))
        drawn.append(np.mean([spearman(row.ravel()) for row in of[:, rng.integers(0, things, things)]]))
    return {
        "kind_accuracy": round(float(kinds.mean()), 4),
        "similarity_spearman": round(float(np.mean([spearman(row) for row in cosines])), 4),
        "ci95": {"kind_accuracy": interval(of_seeds([kinds])[0]), "similarity_spearman": interval(np.array(drawn))},
    }
