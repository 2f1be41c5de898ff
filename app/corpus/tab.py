"""The Corpus tab: a file, its columns, a model, and a build that may be watched, cancelled and resumed."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from grace_app.corpus.builds import Builds, estimate, read_upload, shortened, suggested_name
from grace_app.corpus.render import render_estimate, render_job, render_no_preview, render_preview, render_unfinished
from grace_app.gate import runs_model
from grace_app.page.html import banner, tag
from grace_app.page.scripts import html
from grace_app.workspace.messages import message_of
from grace_app.workspace.shell import Shell
from grace_core.collection import collection_folder, difference
from grace_core.errors import GraceError
from grace_core.readers import SUFFIXES, Preview, preview
from grace_core.sources import named_here

ROLES = ("id", "title", "text")
NONE = ("— none —", "")
HUB_EXAMPLE = "Qwen/Qwen2.5-0.5B-Instruct"
TICK = 0.7  # seconds


@dataclass
class CorpusTab:
    shell: Shell
    builds: Builds
    file: gr.File
    columns: list[gr.Dropdown]
    preview: gr.HTML
    name: gr.Textbox
    model: gr.Dropdown
    limit: gr.Textbox
    message: gr.HTML
    job: gr.HTML
    unfinished: gr.HTML
    timer: gr.Timer

    @property
    def watched(self) -> list:
        return [self.job, self.unfinished, self.timer]

    def show_builds(self, message: str | None = None) -> list:
        """Values for :attr:`watched`."""
        job = self.builds.job
        running = bool(job and job.running)
        return [str(render_job(job)), str(render_unfinished(self.builds.left(), message)), gr.Timer(active=running)]


def build(shell: Shell) -> CorpusTab:
    """Lay out the tab and wire it."""
    models = named_here()
    with gr.Tab("Corpus", id="corpus"):
        with gr.Column(elem_classes="g-page"):
            html(value=str(tag("p", "Build a collection from your own documents, then explore it.", class_="g-lead")))
            with gr.Row(elem_classes="g-steps"):
                with gr.Column(scale=4, min_width=300, elem_classes="g-step"):
                    html(value=_step(1, "File"))
                    file = gr.File(
                        label="File", show_label=False, file_types=[*SUFFIXES, ".gz"], height=110, elem_id="g-file", type="filepath"
                    )
                    html(value=_step(2, "Columns"))
                    with gr.Row(elem_classes="g-roles"):
                        columns = [
                            gr.Dropdown([NONE], value="", label=role.capitalize(), filterable=False, min_width=90, elem_id=f"g-col-{role}")
                            for role in ROLES
                        ]
                    html(value=_step(3, "Name and model"))
                    with gr.Row(elem_classes="g-roles"):
                        name = gr.Textbox(
                            label="Collection name", placeholder="my-corpus", elem_id="g-name", max_lines=1, scale=3, min_width=150
                        )
                        # a text box, as an empty gr.Number comes back as 0
                        limit = gr.Textbox(label="Limit", placeholder="all", elem_id="g-limit", max_lines=1, scale=1, min_width=90)
                    model = gr.Dropdown(
                        [*models, HUB_EXAMPLE],
                        value=models[0] if models else HUB_EXAMPLE,
                        label="Model",
                        allow_custom_value=True,
                        elem_id="g-model",
                        info="A demo model, a folder on the server, or a Hugging Face id",
                    )
                    with gr.Row(elem_classes="g-actions"):
                        measure = gr.Button("Estimate", elem_id="g-estimate")
                        start = gr.Button("Build", variant="primary", elem_id="g-build")
                    message = html(elem_id="g-corpus-message")
                    job = html(js="page/actions", elem_id="g-job")
                    unfinished = html(js="page/actions", elem_id="g-unfinished")
                with gr.Column(scale=7, min_width=360, elem_classes="g-step"):
                    shown = html(value=str(render_no_preview()), elem_id="g-preview")
        timer = gr.Timer(TICK, active=False)
    tab = CorpusTab(shell, Builds(shell.workspace), file, columns, shown, name, model, limit, message, job, unfinished, timer)
    _wire(tab, measure, start)
    return tab


def _step(step: int, title: str) -> str:
    return str(tag("h3", tag("span", step, class_="g-step-number", aria_hidden="true"), title, class_="g-step-title"))


def _wire(tab: CorpusTab, measure: gr.Button, start: gr.Button) -> None:
    explore = tab.shell.built["explore"]
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    form = [tab.file, *tab.columns, tab.name, tab.model, tab.limit]

    def uploaded(path):
        return show_file(path)

    def mapped(path, *chosen):
        return show_mapping(path, chosen)

    @runs_model
    def measuring(path, *rest):
        yield _working("Measuring a few documents …")
        yield measured(tab, path, *rest)

    @runs_model
    def started(path, *rest):
        yield [_working("Reading the file …"), *[gr.skip()] * 3]
        try:
            begin(tab, path, *rest)
            yield ["", *tab.show_builds()]
        except Exception as error:
            yield [str(banner(shortened_message(error, path))), *tab.show_builds()]

    @runs_model
    def acted(event: gr.EventData):
        return act(tab, event)

    everything = [tab.shell.tabs, *explore.everything, *tab.watched]
    tab.file.change(uploaded, tab.file, [tab.preview, *tab.columns, tab.name, tab.message], **quiet)
    for column in tab.columns:
        column.input(mapped, [tab.file, *tab.columns], [tab.preview, tab.message], **quiet)
    measure.click(measuring, form, tab.message, **quiet)
    start.click(started, form, [tab.message, *tab.watched], **quiet)
    tab.job.select(acted, None, everything, **quiet)
    tab.unfinished.select(acted, None, everything, **quiet)
    tab.timer.tick(lambda: tab.show_builds(), None, tab.watched, **quiet)


def show_file(path: str | None) -> list:
    """Preview, guessed columns and a name for a file that was just chosen."""
    if not path:
        return [str(render_no_preview()), *_no_columns(), gr.skip(), ""]
    try:
        head = preview(path)
    except Exception as error:
        return [str(render_no_preview(shortened_message(error, path))), *_no_columns(), gr.skip(), ""]
    choices = [NONE, *((name or "(no name)", name) for name in head.columns if name)]
    guessed = [gr.update(choices=choices, value=head.mapping[role] or "") for role in ROLES]
    missing = None if head.mapping["text"] else "no column looks like the text: choose it under Columns"
    return [_preview(head, path), *guessed, suggested_name(path), str(banner(missing, kind="info"))]


def _preview(head: Preview, path: str) -> str:
    return str(render_preview(head.columns, head.mapping, head.rows, [shortened(note, path) for note in head.notes]))


def _no_columns() -> list[dict]:
    return [gr.update(choices=[NONE], value="") for _ in ROLES]


def show_mapping(path: str | None, chosen: tuple) -> list:
    """The preview with the columns as they are chosen now."""
    if not path:
        return [gr.skip(), ""]
    try:
        head = preview(path, columns=_columns(chosen))
    except Exception as error:
        return [gr.skip(), str(banner(shortened_message(error, path)))]
    missing = None if head.mapping["text"] else "no column is chosen as the text"
    return [_preview(head, path), str(banner(missing, kind="info"))]


def measured(tab: CorpusTab, path, *rest) -> str:
    """The estimate for the form, or what is wrong with it."""
    try:
        *chosen, _name, model, limit = rest
        corpus = read_upload(path, _columns(chosen), limit)
        return str(render_estimate(estimate(tab.shell.workspace, _model(model), corpus)))
    except Exception as error:
        return str(banner(shortened_message(error, path)))


def begin(tab: CorpusTab, path, *rest) -> None:
    """Check the form and start the build. Raises GraceError."""
    *chosen, name, model, limit = rest
    name = (name or "").strip()
    if not name:
        raise GraceError("the collection has no name yet: give it one")
    folder = collection_folder(tab.shell.workspace.root, name)
    corpus = read_upload(path, _columns(chosen), limit)
    if (folder / "corpus.parquet").exists() and tab.shell.workspace.collection(name).corpus.documents != corpus.documents:
        what = difference(tab.shell.workspace.collection(name), corpus)
        raise GraceError(f"there is a collection {name!r} already, with other documents {what}: choose another name")
    tab.builds.start(name, _model(model), corpus)


def act(tab: CorpusTab, event: gr.EventData) -> list:
    """Cancel, resume or explore, as a button of the page says."""
    explore = tab.shell.built["explore"]
    same = [gr.skip()] * (1 + len(explore.everything))
    data = event._data if isinstance(event._data, dict) else {}
    action, collection, model = (data.get(key) if isinstance(data.get(key), str) else "" for key in ("action", "collection", "model"))
    try:
        if action == "cancel":
            tab.builds.cancel()
        elif action == "resume":
            tab.builds.resume(collection, model)
        elif action == "explore":
            if collection not in tab.shell.workspace.collections():
                raise GraceError(f"there is no collection {collection[:100]!r} here any more")
            return [gr.Tabs(selected="explore"), *explore.show_collection(collection), *tab.show_builds()]
    except Exception as error:
        return [*same, *tab.show_builds(message_of(error))]
    return [*same, *tab.show_builds()]


def shortened_message(error: Exception, path: str | None) -> str:
    line = message_of(error)
    return shortened(GraceError(line), path) if path else line


def _columns(chosen: list | tuple) -> dict[str, str]:
    named = [value for value in chosen if value]
    if twice := [value for value in named if named.count(value) > 1]:
        raise GraceError(f"column {twice[0]!r} is chosen twice: give each of id, title and text a column of its own")
    return {role: value or "" for role, value in zip(ROLES, chosen, strict=True)}


def _model(model: object) -> str:
    text = model.strip() if isinstance(model, str) else ""
    if not text:
        raise GraceError("no model is chosen: take a demo model, or type a folder or a Hugging Face id")
    return text


def _working(line: str) -> str:
    return str(tag("div", tag("span", line), class_="g-summary g-working", role="status"))
