"""The Training tab: runs on disk, their curves, and how their rationales change; running ones are followed.

A timer reads the files while the tab is visible, and sends the page nothing if they are unchanged. The tab handles
one event at a time (``ONE_AT_A_TIME``), so that an answer to the timer cannot overtake one to a click; each takes
only as long as reading new rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from grace_app.page.html import banner
from grace_app.page.scripts import html
from grace_app.training.curves import CANVAS, curves
from grace_app.training.render import render_probes, render_runs
from grace_app.training.runs import Run, Runs
from grace_app.workspace.messages import message_of
from grace_app.workspace.shell import Shell
from grace_app.workspace.view import TrainingView, change_training, read_training, revalidated

TICK = 3.0  # seconds
ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "training"}


@dataclass
class TrainingTab:
    shell: Shell
    runs: Runs
    overview: gr.HTML
    curves: gr.HTML
    probes: gr.HTML
    view: gr.State  # a TrainingView; None until the tab is opened
    seen: gr.State  # :func:`stamp_of` of the runs on the page
    timer: gr.Timer

    @property
    def everything(self) -> list:
        return [self.overview, self.curves, self.probes, self.view, self.seen]

    def show(self, runs: list[Run], view: TrainingView, message: str = "") -> list:
        """Values for :attr:`everything`."""
        try:
            listed = render_runs(runs, view, self.runs.root, only_kept=self.runs.only_kept, message=message)
            parts = [str(listed), curves(runs, view), str(render_probes(runs, view))]
        except Exception as error:
            parts = [str(banner(message_of(error))), "{}", ""]
        return [*parts, view, stamp_of(runs)]


def stamp_of(runs: list[Run]) -> tuple:
    return tuple((run.name, run.stamp) for run in runs)


def build(shell: Shell) -> TrainingTab:
    """Lays out the tab and connects its events."""
    with gr.Tab("Training", id="training"):
        with gr.Column(elem_classes="g-page"):
            overview = html(js="page/address page/shown training/training", elem_id="g-runs")
            charts = html(js="page/elements training/curves", elem_id="g-curves", value="{}", html_template=CANVAS)
            probes = html(js="page/choices", elem_id="g-probes")
        view, seen = gr.State(None), gr.State(None)
        timer = gr.Timer(TICK, active=False)
    tab = TrainingTab(shell, shell.runs, overview, charts, probes, view, seen, timer)
    _wire(tab)
    return tab


def _wire(tab: TrainingTab) -> None:
    quiet = {"show_progress": "hidden", "api_visibility": "private", **ONE_AT_A_TIME}
    asking = quiet | {"trigger_mode": "multiple"}

    def opened(view, request: gr.Request):
        runs = tab.runs.all()
        names, problems = [run.name for run in runs], []
        if view is None:
            view, problems = read_training(names, dict(request.query_params))
        return [*tab.show(runs, revalidated(view, names), "; ".join(problems)), gr.Timer(active=True)]

    def picked(event: gr.EventData, view):
        return pick(tab, view, event._data)

    def ticked(view, seen):
        return refresh(tab, view, seen)

    tab.overview.shown(opened, tab.view, [*tab.everything, tab.timer], **asking)
    tab.overview.hidden(lambda: gr.Timer(active=False), None, tab.timer, **asking)
    for part in (tab.overview, tab.probes):
        part.select(picked, tab.view, tab.everything, **asking)
    tab.timer.tick(ticked, [tab.view, tab.seen], tab.everything, **quiet)


def pick(tab: TrainingTab, view: TrainingView | None, data: object) -> list:
    """The tab after a click; an error is shown above the unchanged view."""
    runs = tab.runs.all()
    names = [run.name for run in runs]
    view = revalidated(view, names) if view else read_training(names, {})[0]
    try:
        return tab.show(runs, change_training(view, names, data))
    except Exception as error:
        return tab.show(runs, view, message_of(error))


def refresh(tab: TrainingTab, view: TrainingView | None, seen: tuple | None) -> list:
    """The tab with new rows from disk; if there are none, the page is left unchanged."""
    runs = tab.runs.all()
    if view is None or seen is None or seen == stamp_of(runs):
        return [gr.skip()] * len(tab.everything)
    names = [run.name for run in runs]
    valid = revalidated(view, names)
    if not valid.ticked and (view.ticked or not seen):  # the ticked runs are gone, or this is the first run
        valid = read_training(names, {})[0]
    return tab.show(runs, valid)
