"""HTML of the Training tab: the runs, and the rationales of one run's probe texts at two evaluations."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from grace_app.corpus.render import duration
from grace_app.explore.results import shorten
from grace_app.page.html import Safe, banner, chip, join, number, tag
from grace_app.page.words import content_words, rationale_text
from grace_app.training.runs import Run
from grace_app.workspace.view import TrainingView

PROBE_LENGTH = 90  # characters of a probe text in the list
SHOWN = 8_000  # characters of a text or a rationale on the page


def render_runs(
    runs: Sequence[Run], view: TrainingView, root: Path, *, only_kept: bool = False, message: str = ""
) -> Safe:
    """All runs, the ticked ones in their colours. With a ``message`` the address of the page does not change."""
    listed = (
        tag("ul", *(_run(run, view) for run in runs), class_="g-runs", aria_label="Training runs")
        if runs
        else _no_runs(root)
    )
    note = None
    if only_kept:
        start = join(_code("grace train configs/demo-grace.yaml"), " starts one, and it takes their place.")
        note = tag(
            "p",
            "Finished runs of the study, the best first. ",
            _code(str(root)),
            " holds no run yet: ",
            start,
            class_="g-note",
        )
    return tag(
        "div",
        banner(message),
        note,
        listed,
        class_="g-training",
        data_view=json.dumps(view.params()),
        data_keep=bool(message),
    )


def _no_runs(root: Path) -> Safe:
    return tag(
        "div",
        tag("p", "There is no training run yet", class_="g-empty-title"),
        tag("p", "Start one with ", _code("grace train configs/demo-grace.yaml"), "; it shows up here."),
        tag("p", "Runs are looked for in the folder ", _code(str(root)), "; ", _code("--runs"), " names another."),
        class_="g-empty",
    )


def _code(words: str) -> Safe:
    return tag("code", words, class_="g-code")


def _run(run: Run, view: TrainingView) -> Safe:
    place = view.runs.index(run.name) if run.name in view.runs else None
    best, base = run.best, run.base
    scores = tag("span", "not evaluated", class_="g-quiet")
    if best:
        gain = "" if base is None or best["step"] == 0 else f"{best['ndcg@10'] - base:+.4f}"
        scores = join(
            tag("b", f"{best['ndcg@10']:.4f}"),
            tag("span", f"at step {number(best['step'])}", class_="g-quiet"),
            tag("span", gain, class_="g-gain", title="more than before training") if gain else None,
        )
    return tag(
        "li",
        tag("span", class_="g-swatch", aria_hidden="true"),
        tag(
            "div",
            tag(
                "button",
                run.name,
                type="button",
                class_="g-open",
                role="checkbox",
                aria_checked="false" if place is None else "true",
                data_set="run",
                data_value=run.name,
                dir="auto",
                title=run.name,
            ),
            tag(
                "span",
                join(run.kind or "unknown kind", f" · {shorten(run.model, 48)}" if run.model else ""),
                class_="g-quiet g-run-kind",
            ),
            class_="g-run-name",
        ),
        tag("div", *_progress(run), class_="g-run-state"),
        tag("div", tag("span", "best nDCG@10", class_="g-quiet g-run-label"), scores, class_="g-run-best"),
        tag(
            "span",
            _clock(run.changed),
            class_="g-quiet g-run-time",
            title="started" if run.state == "running" else "ended",
        ),
        tag("p", run.alarm, class_="g-run-alarm") if run.alarm else None,
        [tag("p", problem, class_="g-run-problem g-quiet") for problem in run.problems],
        class_=f"g-run {'g-run-off' if place is None else f'g-run-{place}'}",
        data_run=run.name,
    )


def _clock(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds > 0 else ""
    except (ValueError, OverflowError, OSError):  # an invalid time, edited by hand
        return ""


def _progress(run: Run) -> list[Safe]:
    """The state with the steps and a remark, and a progress bar."""
    steps = f"step {number(run.reached)}" + (f" of {number(run.planned)}" if run.planned else "")
    if run.running:
        label = chip("running", kind="g-state-running")
        remark = f"about {duration(run.seconds_left)} left" if run.seconds_left else ""
    else:
        label = chip(
            "no sign of life" if run.silent else run.state,
            kind=f"g-state-{'silent' if run.silent else run.state.split()[0]}",
        )
        remark = f"no sign of life for {run.silent}" if run.silent else ""
    percent = round(100 * min(1.0, run.reached / run.planned)) if run.planned else 0
    return [
        tag(
            "div",
            label,
            tag("span", steps),
            tag("span", remark, class_="g-quiet") if remark else None,
            class_="g-run-steps",
        ),
        tag(
            "div",
            tag("div", class_="g-progress-fill", style=f"width:{percent}%"),
            class_="g-progress",
            role="progressbar",
            aria_valuemin="0",
            aria_valuemax="100",
            aria_valuenow=percent,
            aria_label=f"{run.name}: {steps}",
        ),
    ]


def render_probes(runs: Sequence[Run], view: TrainingView) -> Safe:
    """One run's probe texts, its evaluations, and two of them side by side; empty if no run is ticked."""
    named = {run.name: run for run in runs}
    run = named.get(view.of)
    if run is None:
        return Safe("")
    ticked = [named[name] for name in view.ticked if name in named]
    return tag(
        "section",
        tag("h3", "How its rationales changed", class_="g-section-title"),
        _which(ticked, view) if len(ticked) > 1 else None,
        *_evolution(run, view),
        class_="g-probes",
    )


def _which(ticked: Sequence[Run], view: TrainingView) -> Safe:
    buttons = [
        _choice(
            join(tag("span", class_="g-swatch", aria_hidden="true"), run.name),
            what="of",
            value=run.name,
            chosen=run.name == view.of,
            kind=f"g-example g-run-{view.runs.index(run.name)}",
        )
        for run in ticked
    ]
    return tag("div", *buttons, class_="g-examples", role="radiogroup", aria_label="Run")


def _evolution(run: Run, view: TrainingView) -> list[Safe]:
    if not run.probes:
        if run.method in ("cl", "simcse"):
            why = "This run trains the vector of the text alone: it writes no rationales."
        elif run.running and not run.evaluations:
            why = "The first evaluation, before the first step, is not there yet."
        else:
            why = "This run saved no probes: its configuration has no evaluation, or evaluation.probes is 0."
        return [tag("p", why, class_="g-note")]
    # the two evaluations, and the rationales of one text
    first, second = compared_rows(run, view)
    texts = [probe["text"] for probe in run.probes[-1]["probes"]]
    probe = min(view.probe, len(texts) - 1)
    text = texts[probe]
    # probes are matched by their texts, since the configuration may have been edited before the run was resumed
    old, new = (next((p["rationale"] for p in row["probes"] if p["text"] == text), None) for row in (first, second))
    before, after = content_words(old or ""), content_words(new or "")
    best = run.best["step"] if run.best else None
    return [
        tag("p", tag("span", "Held-out nDCG@10 at every evaluation; pick two to compare."), class_="g-note"),
        _timeline(run, first["step"], second["step"]),
        tag(
            "div",
            tag(
                "div",
                *(
                    _choice(
                        shorten(text, PROBE_LENGTH) or "(empty)",
                        what="probe",
                        value=str(i),
                        chosen=i == probe,
                        kind="g-probe",
                    )
                    for i, text in enumerate(texts)
                ),
                class_="g-probe-list",
                role="radiogroup",
                aria_label="Probe text",
            ),
            tag(
                "div",
                tag(
                    "div",
                    _paragraphs(text),
                    class_="g-probe-text",
                    tabindex="0",
                    role="region",
                    aria_label="The probe text",
                ),
                tag(
                    "div",
                    _card("left", first, best, _rationale(old, gone=before - after)),
                    _card("right", second, best, _rationale(new, new=after - before)),
                    class_="g-pair",
                ),
                tag(
                    "p",
                    tag("span", tag("mark", "word", class_="g-mark-new"), " not on the left"),
                    tag("span", tag("mark", "word", class_="g-mark-gone"), " not on the right"),
                    None
                    if old is None or new is None or old != new
                    else tag("span", "Both are the same, word for word."),
                    class_="g-legend",
                ),
                class_="g-probe-shown",
            ),
            class_="g-probe-grid",
        ),
    ]


def compared_rows(run: Run, view: TrainingView) -> tuple[dict, dict]:
    """The two rows of probes that ``view`` compares: those at its steps, or the nearest ones."""

    def nearest(step: int) -> dict:
        return min(run.probes, key=lambda row: abs(row["step"] - step))

    first, last = run.probes[0]["step"], run.probes[-1]["step"]
    best = run.best["step"] if run.best and run.best["step"] != first else last
    return nearest(first if view.start is None else view.start), nearest(best if view.step is None else view.step)


def _timeline(run: Run, first: int, second: int) -> Safe:
    """A column for each evaluation with probes: a bar, the score, the step, and buttons for left and right."""
    scores = {row["step"]: row["ndcg@10"] for row in run.scored}
    known = [scores.get(row["step"], row["ndcg@10"]) for row in run.probes]
    numbers = [score for score in known if score is not None]
    low, high = min(numbers, default=0), max(numbers, default=0)
    best = run.best["step"] if run.best else None
    columns = []
    for row, score in zip(run.probes, known, strict=True):
        step = row["step"]
        height = 0 if score is None else round(20 + 80 * (score - low) / (high - low)) if high > low else 60
        columns.append(
            tag(
                "div",
                tag(
                    "div",
                    tag("div", style=f"height:{height}%", class_="g-time-fill"),
                    class_="g-time-bar",
                    aria_hidden="true",
                ),
                tag("span", "—" if score is None else f"{score:.4f}", class_="g-time-score"),
                tag("span", f"step {number(step)}", class_="g-quiet"),
                class_=f"g-time{' g-time-best' if step == best else ''}",
                title=f"step {number(step)}{', the best' if step == best else ''}: show it on the right",
                data_set="step",
                data_value=step,
            )
        )
    rows = []
    for what, side, now in (("from", "left", first), ("step", "right", second)):
        buttons = [
            _choice(
                side, what=what, value=str(step), chosen=step == now, kind="g-time-pick", label=f"{side}: step {step}"
            )
            for step in (row["step"] for row in run.probes)
        ]
        rows.append(
            tag("div", *buttons, class_="g-time-row", role="radiogroup", aria_label=f"Evaluation on the {side}")
        )
    return tag(
        "div", tag("div", tag("div", *columns, class_="g-time-row"), *rows, class_="g-time-line"), class_="g-timeline"
    )


def _choice(content: object, *, what: str, value: str, chosen: bool, kind: str, label: str | None = None) -> Safe:
    """A button of a radio group; arrow keys move within it (app/page/choices.js)."""
    return tag(
        "button",
        content,
        type="button",
        class_=kind,
        role="radio",
        aria_checked="true" if chosen else "false",
        aria_label=label,
        tabindex="0" if chosen else "-1",
        data_set=what,
        data_value=value,
        dir="auto",
    )


def _card(side: str, row: dict, best: int | None, body: Safe) -> Safe:
    head = [
        tag("b", f"Step {number(row['step'])}"),
        tag("span", "before training", class_="g-quiet") if row["step"] == 0 else None,
    ]
    head.append(chip("best", kind="g-relevant") if row["step"] == best else None)
    score = None if row["ndcg@10"] is None else tag("span", f"nDCG@10 {row['ndcg@10']:.4f}", class_="g-score")
    return tag(
        "div", tag("div", *head, score, class_="g-label"), body, class_=f"g-card g-card-{side}", data_step=row["step"]
    )


def _rationale(rationale: str | None, **classes: set[str]) -> Safe:
    if rationale is None:
        return tag("p", "This evaluation has no such probe.", class_="g-quiet")
    if not rationale.strip():
        return tag("p", "Empty: the model ended its turn at once.", class_="g-quiet")
    cut = rationale[:SHOWN]
    more = (
        tag("p", f"… and {number(len(rationale) - SHOWN)} more characters", class_="g-quiet")
        if len(rationale) > SHOWN
        else None
    )
    return join(
        *(tag("p", rationale_text(part, **classes), dir="auto") for part in cut.splitlines() if part.strip()), more
    )


def _paragraphs(text: str) -> Safe:
    return join(*(tag("p", part, dir="auto") for part in text[:SHOWN].splitlines() if part.strip()))
