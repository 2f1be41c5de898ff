"""The curves of training runs, as what app/training/curves.js draws: lines, axes and their ticks, titles, all
in one JSON document.

Drawn as SVG by a script of our own and not with plotly: fifteen small line charts need no 5 MB of script
before the first of them is there, and take their colours from style.css, so that light and dark need no
second drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from grace_app.page.html import drawing, tag
from grace_app.training.runs import Run
from grace_app.workspace.view import TrainingView

CANVAS = str(tag("div", class_="g-curves"))
POINTS = 400  # of a line, more than its chart has pixels to tell apart
NOISY = 80  # steps from which on a line is drawn thin, and a mean over its neighbourhood on top of it
STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True)
class Measure:
    """What a chart shows: a key of the rows, in words, and the values it always has room for."""

    key: str
    title: str
    note: str = ""
    room: tuple[float, ...] = ()


HELD_OUT = Measure("ndcg@10", "Held-out nDCG@10", "Dashed: before training. Ring: the best, whose model is kept.")
REWARD = (
    Measure("reward", "Reward", "mean of all rollouts"),
    Measure("best_reward", "Best reward", "of a text’s rollouts, mean over the texts"),
    Measure("reward_spread", "Reward spread", "within groups; near 0 nothing can be learned", (0.0,)),
)
REST = (
    Measure("kl", "KL divergence", "from the starting model", (0.0,)),
    Measure("entropy", "Entropy", "of the next token, in nats", (0.0,)),
    Measure("rationale_tokens", "Rationale length", "tokens", (0.0,)),
    Measure("truncated", "Truncation rate", "rationales cut off at the limit", (0.0, 1.0)),
    Measure("novelty", "Novelty", "share of a rationale’s content words that its text lacks", (0.0, 1.0)),
    Measure("distinct", "Distinct share", "different rationales among the rollouts", (0.0, 1.0)),
    Measure("contrastive", "Contrastive loss", "through the rollouts’ embeddings"),
    Measure("retain", "Retention loss", "KL from the starting model on plain texts", (0.0,)),
    Measure("loss", "Loss", "as the optimizer sees it"),
)


def measures(runs: Sequence[Run]) -> list[Measure]:
    """Those of the steps that any of ``runs`` has a value of."""
    there = {key for run in runs for row in run.steps for key in row}
    terms = sorted(key for key in there if key.startswith("term/") and not key.endswith("_spread"))
    made = list(REWARD)
    for key in terms:
        title = f"Term: {key.removeprefix('term/')}"
        made.append(Measure(key, title, "of the reward, mean of all rollouts"))
        made.append(Measure(f"{key}_spread", f"{title}, spread", "within groups", (0.0,)))
    made += REST
    return [measure for measure in made if measure.key in there]


def curves(runs: Sequence[Run], view: TrainingView) -> str:
    """The JSON for the ticked ones of ``runs``; ``{}`` if none is."""
    named = {run.name: run for run in runs}
    ticked = [(place, named[name]) for place, name in enumerate(view.runs) if name in named]
    if not ticked:
        return "{}"
    shown = [run for _, run in ticked]
    reach = reach_of(
        max((run.reached for run in shown), default=0),
        max((run.planned or 0 for run in shown if run.running), default=0),
    )
    charts = []
    if any(run.evaluations for run in shown):
        charts.append(chart(HELD_OUT, [(place, run, run.evaluations) for place, run in ticked], held_out=True))
    charts += [chart(measure, [(place, run, run.steps) for place, run in ticked]) for measure in measures(shown)]
    made = {
        "runs": [{"name": run.name, "place": place} for place, run in ticked],
        "reach": reach,
        "ticks": [step for step in ticks(0, reach, 4) if step == int(step)],
        "charts": [made for made in charts if made["lines"]],
    }
    return drawing(made)


def chart(measure: Measure, rows: Sequence[tuple[int, Run, Sequence[dict]]], *, held_out: bool = False) -> dict:
    lines = []
    for place, run, values in rows:
        points = [(row["step"], row[measure.key]) for row in values if measure.key in row]
        if not any(value is not None for _, value in points):
            continue
        kept = thin([value for _, value in points], POINTS)
        line = {
            "place": place,
            "name": run.name,
            "x": [points[i][0] for i in kept],
            "y": [_short(points[i][1]) for i in kept],
        }
        if held_out:
            line |= {"base": _short(run.base), "best": run.best["step"]}
        elif len(points) > NOISY:
            mean = smooth([value for _, value in points], max(5, len(points) // 25))
            line["mean"] = [_short(mean[i]) for i in kept]
        lines.append(line)
    seen = [value for line in lines for value in (*line["y"], line.get("base")) if value is not None]
    low, high = span(
        [*seen, *measure.room], fixed=measure.room == (0.0, 1.0) and all(0 <= value <= 1 for value in seen)
    )
    return {
        "key": measure.key,
        "title": measure.title,
        "note": measure.note,
        "wide": held_out,
        "low": low,
        "high": high,
        "ticks": ticks(low, high, 5 if held_out else 3),
        "lines": lines,
    }


def reach_of(reached: int, planned: int) -> int:
    """Where the axis of steps ends: while a run goes on (``planned`` steps, else 0) at a round number, so as
    to stand still for a while.
    """
    if reached <= 0:
        return planned or 1
    size = 10 ** math.floor(math.log10(reached))
    rounded = next(math.ceil(step * size) for step in STEPS if step * size >= reached)
    return max(reached, min(rounded, planned))


def span(values: Sequence[float], *, fixed: bool = False) -> tuple[float, float]:
    """Ends of an axis: the values with a little room, a flat line in the middle."""
    if fixed:
        return 0.0, 1.0
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 0.5
    return (low if low == 0 else low - room), (high if high == 0 and low < 0 else high + room)


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Some ``wanted`` round numbers from ``low`` to ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / wanted
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [float(f"{(first + i) * step:.12g}") for i in range(min(count, 20))]


def thin(values: Sequence[float | None], limit: int) -> list[int]:
    """Places of at most some ``limit`` values that look the same: the lowest and the highest of every
    stretch, gaps, and both ends.
    """
    if len(values) <= limit:
        return list(range(len(values)))
    kept = {0, len(values) - 1}
    stretches = limit // 3
    for i in range(stretches):
        part = range(i * len(values) // stretches, (i + 1) * len(values) // stretches)
        known = [place for place in part if values[place] is not None]
        if known:
            kept |= {min(known, key=lambda place: values[place]), max(known, key=lambda place: values[place])}
        kept |= set([place for place in part if values[place] is None][:1])
    return sorted(kept)


def smooth(values: Sequence[float | None], width: int) -> list[float | None]:
    """The mean of up to ``width`` values on either side of each, at the ends of as many as there are on both
    sides; gaps stay gaps.
    """
    sums, counts = [0.0], [0]
    for value in values:
        sums.append(sums[-1] + (value or 0.0))
        counts.append(counts[-1] + (value is not None))
    made: list[float | None] = []
    for i, value in enumerate(values):
        reach = min(width, i, len(values) - 1 - i)
        first, end = i - reach, i + reach + 1
        made.append(None if value is None else (sums[end] - sums[first]) / (counts[end] - counts[first]))
    return made


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
