"""The curves of training runs as a JSON document that app/training/curves.js draws: lines, axes, ticks, titles.

They are drawn as SVG by our own script and not with plotly: its 5 MB would delay fifteen small line charts, and
SVG takes its colours from style.css, so that light and dark mode need no second drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from grace_app.page.html import drawing, tag
from grace_app.training.runs import Run
from grace_app.workspace.view import TrainingView

CANVAS = str(tag("div", class_="g-curves"))
POINTS = 400  # of a line, more than its chart can resolve
NOISY = 80  # steps from which a line is drawn thin, with a moving mean on top
STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True)
class Measure:
    """The measure of a chart: its key in the rows, title and note, and values that the axis always includes."""

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
    """The measures of steps that any of ``runs`` has values of."""
    keys = {key for run in runs for row in run.steps for key in row}
    terms = sorted(key for key in keys if key.startswith("term/") and not key.endswith("_spread"))
    candidates = list(REWARD)
    for key in terms:
        title = f"Term: {key.removeprefix('term/')}"
        candidates.append(Measure(key, title, "of the reward, mean of all rollouts"))
        candidates.append(Measure(f"{key}_spread", f"{title}, spread", "within groups", (0.0,)))
    candidates += REST
    return [measure for measure in candidates if measure.key in keys]


def curves(runs: Sequence[Run], view: TrainingView) -> str:
    """The JSON document for the ticked runs; ``{}`` if none is."""
    named = {run.name: run for run in runs}
    ticked = [(place, named[name]) for place, name in enumerate(view.runs) if name in named]
    if not ticked:
        return "{}"
    ticked_runs = [run for _, run in ticked]
    reach = reach_of(
        max((run.reached for run in ticked_runs), default=0),
        max((run.planned or 0 for run in ticked_runs if run.running), default=0),
    )
    charts = []
    if any(run.evaluations for run in ticked_runs):
        charts.append(chart(HELD_OUT, [(place, run, run.evaluations) for place, run in ticked], held_out=True))
    charts += [chart(measure, [(place, run, run.steps) for place, run in ticked]) for measure in measures(ticked_runs)]
    document = {
        "runs": [{"name": run.name, "place": place} for place, run in ticked],
        "reach": reach,
        "ticks": [step for step in ticks(0, reach, 4) if step == int(step)],
        "charts": [spec for spec in charts if spec["lines"]],
    }
    return drawing(document)


def chart(measure: Measure, rows: Sequence[tuple[int, Run, Sequence[dict]]], *, held_out: bool = False) -> dict:
    lines = []
    for place, run, values in rows:
        points = [(row["step"], row[measure.key]) for row in values if measure.key in row]
        if not any(value is not None for _, value in points):
            continue
        places = thin([value for _, value in points], POINTS)
        line = {
            "place": place,
            "name": run.name,
            "x": [points[i][0] for i in places],
            "y": [_short(points[i][1]) for i in places],
        }
        if held_out:
            line |= {"base": _short(run.base), "best": run.best["step"]}
        elif len(points) > NOISY:
            mean = smooth([value for _, value in points], max(5, len(points) // 25))
            line["mean"] = [_short(mean[i]) for i in places]
        lines.append(line)
    known = [value for line in lines for value in (*line["y"], line.get("base")) if value is not None]
    low, high = span(
        [*known, *measure.room], fixed=measure.room == (0.0, 1.0) and all(0 <= value <= 1 for value in known)
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
    """The end of the axis of steps: while a run continues (``planned`` steps, else 0) a round number, so that the
    axis seldom changes.
    """
    if reached <= 0:
        return planned or 1
    size = 10 ** math.floor(math.log10(reached))
    rounded = next(math.ceil(step * size) for step in STEPS if step * size >= reached)
    return max(reached, min(rounded, planned))


def span(values: Sequence[float], *, fixed: bool = False) -> tuple[float, float]:
    """The ends of an axis: the range of the values with a margin; a flat line is in the middle."""
    if fixed or not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 0.5
    return (low if low == 0 else low - room), (high if high == 0 and low < 0 else high + room)


def ticks(low: float, high: float, about: int) -> list[float]:
    """About ``about`` round numbers from ``low`` to ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [float(f"{(first + i) * step:.12g}") for i in range(min(count, 20))]


def thin(values: Sequence[float | None], limit: int) -> list[int]:
    """Indices of at most about ``limit`` values that draw the same line: the lowest and highest of every stretch,
    gaps, and both ends.
    """
    if len(values) <= limit:
        return list(range(len(values)))
    places = {0, len(values) - 1}
    stretches = limit // 3
    for i in range(stretches):
        part = range(i * len(values) // stretches, (i + 1) * len(values) // stretches)
        present = [place for place in part if values[place] is not None]
        if present:
            places |= {min(present, key=lambda place: values[place]), max(present, key=lambda place: values[place])}
        places |= set([place for place in part if values[place] is None][:1])
    return sorted(places)


def smooth(values: Sequence[float | None], width: int) -> list[float | None]:
    """The moving mean over up to ``width`` values on each side, near the ends as many as both sides have; gaps stay
    gaps.
    """
    sums, counts = [0.0], [0]
    for value in values:
        sums.append(sums[-1] + (value or 0.0))
        counts.append(counts[-1] + (value is not None))
    means: list[float | None] = []
    for i, value in enumerate(values):
        reach = min(width, i, len(values) - 1 - i)
        first, end = i - reach, i + reach + 1
        means.append(None if value is None else (sums[end] - sums[first]) / (counts[end] - counts[first]))
    return means


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
