"""The Evaluate tab: two columns on a collection's judged queries, and the way from any of these queries to Explore.

What is stored in the collections is shown at once. Evaluating what is missing is a generator that reports
every few seconds; it ends when the page asks for something else, and what it did by then is kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr

from grace_app.evaluate.evaluations import Comparison, Evaluations, Progress, compare, evaluate, extremes
from grace_app.evaluate.render import render_none, render_progress, render_scores, render_trouble
from grace_app.evaluate.render_queries import CANVAS, picture, render_cases
from grace_app.evaluate.view import ALL, BETWEEN, FIRST, MORE, EvaluateView, explore_view, read_evaluate, splits_of
from grace_app.evaluate.worth import render_worth
from grace_app.explore import tab as explore
from grace_app.explore.tab import SAME_TIME, NewestRequest
from grace_app.gate import runs_model
from grace_app.page.html import banner
from grace_app.page.scripts import html
from grace_app.workspace.messages import message_of
from grace_app.workspace.shell import Shell
from grace_core.errors import GraceError

SHOWING = 4  # times as long as it took to show how far an evaluation is, nothing new is shown: many queries take long to resample
RUNNING = 4  # evaluations that may be under way together


@dataclass
class EvaluateTab:
    shell: Shell
    evaluations: Evaluations
    collection: gr.Dropdown
    a: gr.Dropdown
    b: gr.Dropdown
    split: gr.Dropdown
    first: gr.Radio
    more: gr.Dropdown
    where: gr.Textbox
    button: gr.Button
    job: gr.HTML
    picture: gr.HTML
    scores: gr.HTML
    cases: gr.HTML
    latest: NewestRequest  # what a page shows: another view or evaluation makes the one that goes on unwanted
    cancelled: NewestRequest

    @property
    def controls(self) -> list:
        return [self.collection, self.a, self.b, self.split, self.first, self.more, self.where]

    @property
    def shown(self) -> list:
        return [self.button, self.job, self.picture, self.scores, self.cases]

    def show_controls(self, view: EvaluateView) -> list:
        """Values for :attr:`controls`."""
        workspace = self.shell.workspace
        offered = dict.fromkeys([*workspace.offered(view.collection), *view.every])
        columns = [(column.label, column.id) for column in offered]
        splits = splits_of(workspace.collection(view.collection))
        words = {name: f"{'all splits' if name == ALL else name} · {count:,}" for name, count in splits.items()}
        return [
            gr.update(choices=workspace.collections(), value=view.collection),
            gr.update(choices=columns, value=view.a.id),
            gr.update(choices=columns, value=view.b.id),
            gr.update(
                choices=[(word, name) for name, word in words.items()], value=(view.split or ALL) if splits else None
            ),
            gr.update(value=str(FIRST) if view.first else ALL),
            gr.update(choices=columns, value=[column.id for column in view.more]),
            view.where,
        ]

    def show(
        self, view: EvaluateView, *, progress: Progress | None = None, message: str = "", lexical: bool = True
    ) -> list:
        """Values for :attr:`shown`.

        While an evaluation goes on the lists stay as they are, so that one can read in them.
        """
        running = progress is not None and progress.state in ("opening", "evaluating")
        job = str(render_progress(progress))
        try:
            if not splits_of(self.shell.workspace.collection(view.collection)):
                return [
                    _button(False),
                    "",
                    picture(None, view),
                    str(banner(message)) + str(render_none(view.collection)),
                    "",
                ]
            comparison = compare(self.evaluations, view, lexical=lexical)
        except Exception as error:
            return [_button(False), "", picture(None, view), str(render_trouble(message_of(error))), ""]
        cases = gr.skip() if running else self._cases(comparison)
        scores = str(render_scores(comparison, message, running=running))
        return [
            _button(comparison.missing and not running),
            job,
            picture(comparison, view, keep=bool(message)),
            scores,
            cases,
        ]

    def _cases(self, comparison: Comparison) -> str:
        worth = render_worth(self.shell.workspace, comparison.view)
        return str(worth) + str(render_cases(comparison, *extremes(self.evaluations, comparison)))


def _button(enabled: object) -> dict:
    return gr.update(interactive=bool(enabled))


def build(shell: Shell) -> EvaluateTab:
    """Lay out the tab and wire it."""
    with gr.Tab("Evaluate", id="evaluate"), gr.Column(elem_classes="g-page"):
        with gr.Row(elem_classes="g-controls g-eval-controls"):
            collection = gr.Dropdown(
                [], label="Collection", filterable=False, elem_id="g-eval-collection", scale=2, min_width=110
            )
            typed_too = {"allow_custom_value": True, "scale": 4, "min_width": 190}  # a fusion with weights of one's own
            a = gr.Dropdown([], label="Column A", elem_id="g-eval-a", **typed_too)
            b = gr.Dropdown([], label="Column B", elem_id="g-eval-b", **typed_too)
            split = gr.Dropdown([], label="Split", filterable=False, elem_id="g-eval-split", scale=3, min_width=130)
            first = gr.Radio([str(FIRST), ALL], value=ALL, label="Queries", elem_id="g-eval-first", min_width=150)
            button = gr.Button(
                "Evaluate", variant="primary", elem_id="g-eval-run", interactive=False, scale=0, min_width=120
            )
        with gr.Row(elem_classes="g-controls"):
            several = {"multiselect": True, "allow_custom_value": True, "max_choices": MORE}
            more = gr.Dropdown([], label="More columns in the table", elem_id="g-eval-more", min_width=300, **several)
            where = gr.Textbox(
                label="Filter", placeholder="such as year > 2000", max_lines=1, elem_id="g-eval-where", min_width=220
            )
        job = html(js="page/actions", elem_id="g-eval-job")
        with gr.Column(elem_classes="g-eval-top"):
            drawn = html(
                js="page/elements page/address page/shown evaluate/evaluate",
                elem_id="g-eval-picture",
                value="{}",
                html_template=CANVAS,
            )
            scores = html(elem_id="g-eval-scores")
        scripts = "page/examples mending/link page/elements page/ask page/figures evaluate/worth"
        cases = html(js=scripts, elem_id="g-eval-cases")
    parts = (collection, a, b, split, first, more, where, button, job, drawn, scores, cases)
    tab = EvaluateTab(shell, Evaluations(shell.workspace), *parts, NewestRequest(), NewestRequest())
    _wire(tab)
    return tab


def _wire(tab: EvaluateTab) -> None:
    quiet = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "multiple"}

    def shown(collection, a, b, split, first, more, where, request: gr.Request):
        yield from show_tab(tab, (collection, a, b, split, first, more, where), dict(request.query_params))

    def changed(collection, a, b, split, first, more, where, request: gr.Request):
        tab.latest.start(request.session_hash)
        yield from change(tab, (collection, a, b, split, first, more, where))

    def moved(collection, a, b, split, first, more, request: gr.Request):  # the filter may not fit the new one
        yield from changed(collection, a, b, split, first, more, "", request)

    @runs_model
    def started(collection, a, b, split, first, more, where, request: gr.Request):
        yield from run(tab, (collection, a, b, split, first, more, where), request.session_hash)

    def cancelled(request: gr.Request):
        tab.cancelled.start(request.session_hash)

    def picked(event: gr.EventData, collection, a, b, split, first, more, where):
        return open_query(tab, (collection, a, b, split, first, more, where), event._data)

    everything = [*tab.controls, *tab.shown]
    tab.picture.shown(shown, tab.controls, everything, concurrency_limit=SAME_TIME, **quiet)
    telling = {"concurrency_limit": SAME_TIME, **quiet}
    tab.collection.input(moved, tab.controls[:-1], everything, **telling)
    typed = [tab.where.submit, *(part.input for part in tab.controls[1:-1])]
    gr.on(typed, changed, tab.controls, everything, **telling)
    tab.button.click(started, tab.controls, tab.shown, concurrency_limit=RUNNING, **quiet)
    tab.job.select(cancelled, None, None, concurrency_limit=None, **quiet)
    first = tab.shell.built["explore"]
    outputs = [*first.everything, first.opened, tab.shell.tabs, tab.job]
    for part in (tab.picture, tab.cases):
        explore.search_opened(first, part.select(picked, tab.controls, outputs, **quiet))


def _asked(chosen: tuple | list) -> dict:
    asked = dict(zip(("on", "x", "y", "split", "first", "more", "among"), chosen, strict=True))
    more = asked["more"] if isinstance(asked["more"], list) else []
    return asked | {"more": BETWEEN.join(text for text in more if isinstance(text, str))}


def show_tab(tab: EvaluateTab, chosen: tuple, address: dict) -> Iterator[list]:
    """The tab as it comes into sight: as the address asks while nothing is chosen yet, later as it was left,
    with what is new on disk.
    """
    try:
        view, problems = read_evaluate(tab.shell.workspace, address if chosen[0] is None else _asked(chosen))
        for values in _in_two(tab, view, "; ".join(problems)):
            values[len(tab.controls) + 1] = gr.skip()  # an evaluation may be going on
            yield values
    except Exception as error:
        empty = not tab.shell.workspace.collections()
        trouble = str(render_trouble(message_of(error), empty=empty and isinstance(error, GraceError)))
        yield [*[gr.skip()] * len(tab.controls), _button(False), "", picture(None, None, keep=True), trouble, ""]


def change(tab: EvaluateTab, chosen: tuple) -> Iterator[list]:
    """Another collection begins with its own columns and split."""
    try:
        asked = _asked(chosen)
        view, problems = read_evaluate(tab.shell.workspace, asked)
        if isinstance(asked["among"], str) and asked["among"].strip() and not view.where:
            raise GraceError(problems[-1])  # what was typed stays, to be mended
        yield from _in_two(tab, view)
    except Exception as error:
        trouble = str(render_trouble(message_of(error)))
        yield [*[gr.skip()] * len(tab.controls), _button(False), "", picture(None, None, keep=True), trouble, ""]


def _in_two(tab: EvaluateTab, view: EvaluateView, message: str = "") -> Iterator[list]:
    """Everything but BM25 first, as that takes a while in a large collection.

    Both times with updates of their own: Gradio takes the value out of an update that it sends.
    """
    yield [*tab.show_controls(view), *tab.show(view, message=message, lexical=False)]
    yield [*tab.show_controls(view), *tab.show(view, message=message)]


def run(tab: EvaluateTab, chosen: tuple, page: str) -> Iterator[list]:
    """An evaluation as it goes on, until it is done, cancelled, or the page asks for something else.

    Then nothing more is shown of it; at last nothing must be, as Gradio sends the last value of a generator once more.
    """
    number, cancel = tab.latest.start(page), tab.cancelled.start(page)
    same = [gr.skip()] * len(tab.shown)
    try:
        view, _ = read_evaluate(tab.shell.workspace, _asked(chosen), strict=True)
    except Exception as error:
        yield [gr.skip(), str(banner(message_of(error))), *same[2:]]
        return

    def current() -> bool:
        return tab.latest.is_current(page, number)

    pause = 0.0
    try:
        for progress in evaluate(tab.evaluations, view, lambda: current() and tab.cancelled.is_current(page, cancel)):
            started = time.monotonic()
            if progress.state == "evaluating" and started < pause:
                continue
            values = tab.show(view, progress=progress)
            pause = time.monotonic() + SHOWING * (time.monotonic() - started)
            yield values if current() else same
    except Exception as error:
        yield tab.show(view, message=message_of(error)) if current() else same


def open_query(tab: EvaluateTab, chosen: tuple, data: object) -> list:
    """Explore with both columns on the query of a click: values for its parts, what it is to search, the row
    of tabs, and :attr:`job`.
    """
    target = tab.shell.built["explore"]
    try:
        view, _ = read_evaluate(tab.shell.workspace, _asked(chosen), strict=True)
        values = target.show_asked(explore_view(tab.shell.workspace, view, data))
    except Exception as error:
        return [*[gr.skip()] * len(target.everything), explore.NOTHING, gr.skip(), str(banner(message_of(error)))]
    return [*values, gr.Tabs(selected="explore"), ""]
