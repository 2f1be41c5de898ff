"""What ``grace eval worth --save`` measured, kept beside an index, and the curves that are drawn of it.

    <collection>/<model>/worth.json    how it was measured, and the figures of :func:`grace_core.evaluation.worth.summary`

Rationales are generated for it, so it belongs to a model with its settings, to a corpus and to its judgements, and not
to the vectors that are stored: it stays when these change geometry or are mended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from grace_core.errors import GraceError
from grace_core.files import only_writer, read_json, sha256, write_json
from grace_core.index import GraceIndex
from grace_core.switching import JUDGEMENTS

FILE = "worth.json"
SCHEMA = 1
SIDES = {
    "both": "both write",
    "queries": "queries write, documents have theirs",
    "alone": "queries write, documents have none",
}
ABOUT = {"split": str, "queries": int, "documents": int, "dev": str, "geometry": str}  # how it was measured


def save(index: GraceIndex, about: Mapping[str, str | int], result: dict) -> None:
    """Keep ``result`` with ``about``, which has the keys of :data:`ABOUT`. Raises GraceError if another process writes there."""
    with only_writer(index.folder):
        write_json(index.folder / FILE, {"schema": SCHEMA, "index": _identity(index), **about, "result": result})


def load(index: GraceIndex) -> dict | None:
    """What is kept for ``index``: ``ABOUT``, ``curves`` as :func:`curves` gives them; None if nothing is.

    Raises GraceError if the file is damaged, or belongs to another model, corpus or judgements than the index has now.
    """
    path = index.folder / FILE
    if not path.is_file():
        return None
    remedy = "measure again: grace eval worth … --save"
    kept = read_json(path, f"remove it and {remedy}")
    if kept.get("schema") != SCHEMA or kept.get("index") != _identity(index):
        raise GraceError(
            f"{path} was measured with another model, other settings, another corpus or other judgements than are here now; {remedy}"
        )
    try:
        about = {key: kind(kept[key]) for key, kind in ABOUT.items()}
        return about | {"curves": curves(kept["result"])}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GraceError(f"{path} was damaged or edited; remove it and {remedy}") from error


def curves(result: Mapping) -> dict:
    """What is drawn of a summary, read from JSON or not: ``{"budgets": [0, …], "tokens": of a query under each,
    "sides": {side: [interval, …]}, "gate"}``, an interval being ``[low, mean, high]`` of nDCG@10.

    ``gate`` is None, or of the largest budget ``{"budget", "share": [0, …, 1], "values": […], "wrote": share, "never",
    "gated", "always": intervals, "less": {"always", "never", "random": intervals}}``. Raises KeyError, TypeError or
    ValueError for what is no summary.
    """
    sides = {side: {int(n): value for n, value in result["budgets"][side].items()} for side in SIDES}
    budgets = sorted(sides["queries"])
    if budgets[0] != 0 or len(budgets) < 2 or any(sorted(values) != budgets for values in sides.values()):
        raise ValueError("a summary has none, and the same budgets on every side")
    gates = {int(n): value for n, value in result["gate"].items()}
    return {
        "budgets": budgets,
        "tokens": [_number(sides["queries"][n]["query_tokens"]) for n in budgets],
        "sides": {side: [_interval(values[n]) for n in budgets] for side, values in sides.items()},
        "over_none": {side: _interval(values[budgets[-1]]["over_none"]) for side, values in sides.items()},
        "gate": _gate(budgets[-1], gates[budgets[-1]]) if gates else None,
    }


def _gate(budget: int, value: Mapping) -> dict:
    share, values = ([_number(one) for one in value["curve"][key]] for key in ("share", "ndcg@10"))
    if len(share) != len(values):
        raise ValueError("a gate's curve has as many values as shares")
    return {
        "budget": budget,
        "share": share,
        "values": values,
        "wrote": _number(value["wrote"]),
        "threshold": _number(value["threshold"]),
        **{name: _interval(value[name]) for name in ("never", "gated", "always")},
        "less": {name: _interval(value["less"][name]) for name in ("always", "never", "random")},
    }


def _interval(value: Mapping) -> list[float]:
    low, high = value["ci95"]
    return [_number(low), _number(value["mean"]), _number(high)]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a number, got {value!r}")
    return float(value)


def _identity(index: GraceIndex) -> dict:
    manifest, folder = index.manifest, index.collection.folder
    files = {name: sha256(folder / name) for name in JUDGEMENTS if (folder / name).is_file()}
    return {
        "model": manifest["model"]["sha256"],
        "settings": manifest["settings"],
        "corpus": manifest["corpus_sha256"],
        "judgements": files,
    }
