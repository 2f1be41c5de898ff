"""The Training tab: runs on disk, their curves, and how their rationales change; it follows runs that go on.

A timer looks at the files while the tab is shown. What it finds unchanged is not sent again. All events of
the tab wait for one another (``ONE_AT_A_TIME``), so that no answer to the timer can overtake one to a click;
none takes longer than reading what was appended.
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
    view: gr.State  # a TrainingView; None until the tab is shown for the first time
    seen: gr.State  # what the page shows, as by :func:`stamp_of`
    timer: gr.Timer

    @property
    def everything(self) -> list:
        return [self.overview, self.curves, self.probes, self.view, self.seen]

    def show(self, runs: list[Run], view: TrainingView, message: str = "") -> list:
        """Values for :attr:`everything`."""
        try:
            listed = render_runs(runs, view, self.runs.root, only_kept=self.runs.only_kept, message=message)
            shown = [str(listed), curves(runs, view), str(render_probes(runs, view))]
        except Exception as error:
            shown = [str(banner(message_of(error))), "{}", ""]
        return [*shown, view, stamp_of(runs)]


def stamp_of(runs: list[Run]) -> tuple:
    return tuple((run.name, run.stamp) for run in runs)


def build(shell: Shell) -> TrainingTab:
    """Lay out the tab and wire it."""
    with gr.Tab("Training", id="training"):
        with gr.Column(elem_classes="g-page"):
            overview = html(js="page/shown training/training", elem_id="g-runs")
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

    def shown(view, request: gr.Request):
        runs = tab.runs.all()
        names, problems = [run.name for run in runs], []
        if view is None:
            view, problems = read_training(names, dict(request.query_params))
        return [*tab.show(runs, revalidated(view, names), "; ".join(problems)), gr.Timer(active=True)]

    def picked(event: gr.EventData, view):
        return pick(tab, view, event._data)

    def ticked(view, seen):
        return look(tab, view, seen)

    tab.overview.shown(shown, tab.view, [*tab.everything, tab.timer], **asking)
    tab.overview.hidden(lambda: gr.Timer(active=False), None, tab.timer, **asking)
    for part in (tab.overview, tab.probes):
        part.select(picked, tab.view, tab.everything, **asking)
    tab.timer.tick(ticked, [tab.view, tab.seen], tab.everything, **quiet)


def pick(tab: TrainingTab, view: TrainingView | None, data: object) -> list:
    """What a click asks for, from what the page shows; what is wrong with it stands above what is shown already."""
    runs = tab.runs.all()
    names = [run.name for run in runs]
    view = revalidated(view, names) if view else read_training(names, {})[0]
    try:
        return tab.show(runs, change_training(view, names, data))
    except Exception as error:
        return tab.show(runs, view, message_of(error))


def look(tab: TrainingTab, view: TrainingView | None, seen: tuple | None) -> list:
    """What is new on disk; if nothing is, the page stays as it is."""
    runs = tab.runs.all()
    if view is None or seen is None or seen == stamp_of(runs):
        return [gr.skip()] * len(tab.everything)
    names = [run.name for run in runs]
    settled = revalidated(view, names)
    nothing_left = not settled.ticked and (
        view.ticked or not seen
    )  # the ticked ones are gone, or this is the first run
    return tab.show(runs, read_training(names, {})[0] if nothing_left else settled)
