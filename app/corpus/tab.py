"""The Corpus tab: a file, its columns, a model, and a build with its progress that can be cancelled and resumed."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from grace_app.corpus.builds import Builds, estimate
from grace_app.corpus.render import (
    render_estimate,
    render_job,
    render_no_preview,
    render_preview,
    render_split,
    render_unfinished,
)
from grace_app.corpus.uploads import (
    Files,
    paths_of,
    preview_upload,
    read_chunk,
    read_upload,
    shortened,
    split_upload,
    suggested_name,
)
from grace_app.gate import runs_model
from grace_app.page.html import banner, tag
from grace_app.page.scripts import html
from grace_app.workspace.messages import message_of
from grace_app.workspace.shell import Shell
from grace_core.collection import collection_folder
from grace_core.errors import GraceError
from grace_core.readers import SUFFIXES, Preview
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
    mode: gr.Radio
    words: gr.Textbox
    shared: gr.Textbox
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
        return [
            str(render_job(job)),
            str(render_unfinished(self.builds.resumable(), message)),
            gr.Timer(active=running),
        ]


def build(shell: Shell) -> CorpusTab:
    """Lays out the tab and connects its events."""
    models = named_here()
    with gr.Tab("Corpus", id="corpus"):
        with gr.Column(elem_classes="g-page"):
            html(value=str(tag("p", "Build a collection from your own documents, then explore it.", class_="g-lead")))
            with gr.Row(elem_classes="g-steps"):
                # the form
                with gr.Column(scale=4, min_width=300, elem_classes="g-step"):
                    html(value=_step(1, "File, or several"))
                    file = gr.File(
                        label="File",
                        show_label=False,
                        file_types=[*SUFFIXES, ".htm", ".gz"],
                        file_count="multiple",
                        height=110,
                        elem_id="g-file",
                        type="filepath",
                    )
                    html(value=_step(2, "Columns"))
                    with gr.Row(elem_classes="g-roles"):
                        columns = [
                            gr.Dropdown(
                                [NONE],
                                value="",
                                label=role.capitalize(),
                                filterable=False,
                                min_width=90,
                                elem_id=f"g-col-{role}",
                            )
                            for role in ROLES
                        ]
                    html(value=_step(3, "Passages"))
                    with gr.Row(elem_classes="g-roles"):
                        words = gr.Textbox(
                            label="Words of a passage",
                            placeholder="whole documents",
                            elem_id="g-words",
                            max_lines=1,
                            scale=3,
                            min_width=150,
                        )
                        shared = gr.Textbox(
                            label="Shared words",
                            placeholder="0",
                            elem_id="g-shared",
                            max_lines=1,
                            scale=1,
                            min_width=110,
                        )
                    html(value=_step(4, "Name and model"))
                    with gr.Row(elem_classes="g-roles"):
                        name = gr.Textbox(
                            label="Collection name",
                            placeholder="my-corpus",
                            elem_id="g-name",
                            max_lines=1,
                            scale=3,
                            min_width=150,
                        )
                        # a text box, since an empty gr.Number is sent as 0
                        limit = gr.Textbox(
                            label="Limit", placeholder="all", elem_id="g-limit", max_lines=1, scale=1, min_width=90
                        )
                    mode = gr.Radio(
                        [("Add to it", "add"), ("Take its documents' place", "replace")],
                        value="add",
                        label="If there is a collection of that name",
                        info="By id; only texts that are new are encoded. Add keeps documents that the file lacks, the other removes them",
                        elem_id="g-mode",
                    )
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
                # the preview
                with gr.Column(scale=7, min_width=360, elem_classes="g-step"):
                    preview = html(value=str(render_no_preview()), elem_id="g-preview")
        timer = gr.Timer(TICK, active=False)
    builds = Builds(shell.workspace)
    tab = CorpusTab(
        shell, builds, file, columns, preview, name, model, limit, mode, words, shared, message, job, unfinished, timer
    )
    _wire(tab, measure, start)
    return tab


def _step(step: int, title: str) -> str:
    return str(tag("h3", tag("span", step, class_="g-step-number", aria_hidden="true"), title, class_="g-step-title"))


def _wire(tab: CorpusTab, measure: gr.Button, start: gr.Button) -> None:
    explore = tab.shell.built["explore"]
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    split = [tab.words, tab.shared]
    form = [tab.file, *tab.columns, *split, tab.name, tab.model, tab.limit, tab.mode]

    def uploaded(path, words, shared):
        return show_file(path, words, shared)

    def mapped(path, *chosen):
        *chosen, words, shared = chosen
        return show_mapping(path, chosen, words, shared)

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
    tab.file.change(uploaded, [tab.file, *split], [tab.preview, *tab.columns, tab.name, tab.message], **quiet)
    # ``change`` of text boxes, since ``input`` may fire before the last character
    for event in [*(column.input for column in tab.columns), *(field.change for field in split)]:
        event(
            mapped,
            [tab.file, *tab.columns, *split],
            [tab.preview, tab.message],
            **quiet | {"trigger_mode": "always_last"},
        )
    measure.click(measuring, form, tab.message, **quiet)
    start.click(started, form, [tab.message, *tab.watched], **quiet)
    tab.job.select(acted, None, everything, **quiet)
    tab.unfinished.select(acted, None, everything, **quiet)
    tab.timer.tick(lambda: tab.show_builds(), None, tab.watched, **quiet)


def show_file(files: Files, words: str = "", shared: str = "") -> list:
    """Preview, guessed columns and a suggested name for the chosen files."""
    if not paths_of(files):
        return [str(render_no_preview()), *_no_columns(), gr.skip(), ""]
    try:
        head = preview_upload(files)
    except Exception as error:
        return [str(render_no_preview(shortened_message(error, files))), *_no_columns(), gr.skip(), ""]
    choices = [NONE, *((name or "(no name)", name) for name in head.columns if name)]
    guessed = [gr.update(choices=choices, value=head.mapping[role] or "") for role in ROLES]
    hint = None if head.mapping["text"] else "no column looks like the text: choose it under Columns"
    preview_html, problem = _preview(
        head, files, {role: name or "" for role, name in head.mapping.items()}, words, shared
    )
    return [preview_html, *guessed, suggested_name(str(paths_of(files)[0])), problem or str(banner(hint, kind="info"))]


def _preview(head: Preview, files: Files, columns: dict[str, str], words: str, shared: str) -> tuple[str, str]:
    """HTML of the first rows, with the passages of the first documents if these are to be split; and of an error."""
    rows = str(render_preview(head.columns, head.mapping, head.rows, head.notes))
    try:
        chunk = read_chunk(words, shared)
        if chunk is None or not head.mapping["text"]:
            return rows, ""
        return str(render_split(split_upload(files, columns, chunk))) + rows, ""
    except Exception as error:
        return rows, str(banner(shortened_message(error, files)))


def _no_columns() -> list[dict]:
    return [gr.update(choices=[NONE], value="") for _ in ROLES]


def show_mapping(files: Files, chosen: list | tuple, words: str = "", shared: str = "") -> list:
    """The preview with the chosen columns and passages."""
    if not paths_of(files):
        return [gr.skip(), ""]
    try:
        columns = _columns(chosen)
        head = preview_upload(files, columns)
    except Exception as error:
        return [gr.skip(), str(banner(shortened_message(error, files)))]
    hint = None if head.mapping["text"] else "no column is chosen as the text"
    preview_html, problem = _preview(head, files, columns, words, shared)
    return [preview_html, problem or str(banner(hint, kind="info"))]


def measured(tab: CorpusTab, files: Files, *rest) -> str:
    """HTML of the estimate for the form, or of an error."""
    try:
        *chosen, words, shared, _name, model, limit, _mode = rest
        corpus = read_upload(files, _columns(chosen), limit, read_chunk(words, shared))
        return str(render_estimate(estimate(tab.shell.workspace, _model(model), corpus)))
    except Exception as error:
        return str(banner(shortened_message(error, files)))


def begin(tab: CorpusTab, files: Files, *rest) -> None:
    """Checks the form and starts the build. Raises GraceError for an invalid form."""
    *chosen, words, shared, name, model, limit, mode = rest
    name = (name or "").strip()
    if not name:
        raise GraceError("the collection has no name yet: give it one")
    collection_folder(tab.shell.workspace.root, name)
    corpus = read_upload(files, _columns(chosen), limit, read_chunk(words, shared))
    tab.builds.start(name, _model(model), corpus, add=mode == "add")


def act(tab: CorpusTab, event: gr.EventData) -> list:
    """Cancels, resumes or explores a build, by the button that was clicked."""
    explore = tab.shell.built["explore"]
    same = [gr.skip()] * (1 + len(explore.everything))
    data = event._data if isinstance(event._data, dict) else {}
    action, collection, model = (
        data.get(key) if isinstance(data.get(key), str) else "" for key in ("action", "collection", "model")
    )
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


def shortened_message(error: Exception, files: Files) -> str:
    return shortened(message_of(error), files)


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
