"""The Explore tab: one query, two columns, and what each retrieved."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gradio as gr
from cachetools import LRUCache
from gradio.events import Dependency

from grace_app.explore.detail import render_detail
from grace_app.explore.render_facets import render_facets
from grace_app.explore.results import render_empty, render_examples, render_failure, render_note, render_results
from grace_app.explore.search import Side, Snapshot, open_document, search
from grace_app.explore.why import answer_what_if, answer_why
from grace_app.explore.worth import answer_worth
from grace_app.export import part as export
from grace_app.gate import runs_model
from grace_app.page.html import banner
from grace_app.page.scripts import html
from grace_app.workspace.answers import server_functions
from grace_app.workspace.messages import message_of
from grace_app.workspace.shell import Shell
from grace_app.workspace.view import (
    MAX_ID,
    SIZES,
    AnyColumn,
    Column,
    OtherColumn,
    View,
    check_query,
    default_view,
    read_hit,
    read_view,
)
from grace_core.errors import GraceError
from grace_core.geometry import words

SCRIPTS = "page/elements page/ask page/figures explore/ledger explore/why explore/whatif explore/worth mending/link explore/detail"
RANKS_BY = [("its best passage", "best"), ("the sum of its passages", "sum")]
NOTHING: dict[str, str] = {}  # for a page that asks for no search
SAME_TIME = 8  # searches that may be under way together; a model's steps are taken in turns


class NewestRequest:
    """The number of the newest search of every page, so that an older one can see that it is no longer wanted."""

    def __init__(self, size: int = 10_000):
        self._numbers: LRUCache[str, int] = LRUCache(size)
        self._lock = threading.Lock()

    def start(self, page: str) -> int:
        with self._lock:
            self._numbers[page] = self._numbers.get(page, 0) + 1
            return self._numbers[page]

    def is_current(self, page: str, number: int) -> bool:
        with self._lock:
            return self._numbers.get(page, number) == number


@dataclass
class ExploreTab:
    """The parts of the tab that others may set: see :meth:`show_collection`."""

    shell: Shell
    collection: gr.Dropdown
    a: gr.Dropdown
    b: gr.Dropdown
    k: gr.Radio
    by: gr.Radio
    query: gr.Textbox
    where: gr.Textbox
    button: gr.Button
    examples: gr.HTML
    note: gr.HTML
    facets: gr.HTML
    results: gr.HTML
    detail: gr.HTML
    opened: (
        gr.State
    )  # what a page that was just opened, or that another tab sent here, is to search, see :func:`search_opened`
    latest: NewestRequest

    @property
    def controls(self) -> list:
        asked = [self.collection, self.a, self.b, self.k, self.by, self.query, self.where]
        return [*asked, self.examples, self.note, self.facets]

    @property
    def everything(self) -> list:
        return [*self.controls, self.results, self.detail]

    def show_controls(self, view: View | None) -> list:
        """Values for :attr:`controls`; without a view the collections can still be chosen from."""
        workspace = self.shell.workspace
        if view is None:
            columns = [gr.update(choices=[], value=None) for _ in range(2)]
            return [
                gr.update(choices=workspace.collections(), value=None),
                *columns,
                gr.skip(),
                gr.update(value="best", visible=False),
                gr.skip(),
                "",
                "",
                "",
                "",
            ]
        choices = [(column.label, column.id) for column in _choices(workspace.offered(view.collection), view)]
        return [
            gr.update(choices=workspace.collections(), value=view.collection),
            gr.update(choices=choices, value=view.a.id),
            gr.update(choices=choices, value=view.b.id),
            view.k,
            gr.update(value=view.by, visible=workspace.collection(view.collection).chunk is not None),
            view.query,
            view.where,
            str(render_examples(workspace.examples(view.collection))),
            self.show_note(view),
            str(render_facets(workspace.facets(view.collection).shown(view.where))),
        ]

    def show_asked(self, view: View) -> list:
        """Values for :attr:`everything` and :attr:`opened` of a page that is about to search for ``view``."""
        blank = render_results(Snapshot(view, Side(view.a), Side(view.b)))
        return [*self.show_controls(view), str(blank), "", view.asked() | view.opened()]

    def show_note(self, view: View) -> str:
        """What a score is in both columns, if that is not the plain cosine, and what demo models know."""
        models = [column.model for column in (view.a, view.b) if isinstance(column, Column)]
        kinds = {name: self.shell.workspace.geometry(view.collection, name) for name in models}
        lines = [told_of(column) for column in dict.fromkeys((view.a, view.b)) if isinstance(column, OtherColumn)]
        if set(kinds.values()) <= {"raw"}:
            pass
        elif len(set(kinds.values())) == 1:
            lines.insert(0, words(next(iter(kinds.values()))))
        else:
            lines = [f"{name}: {words(kind)}" for name, kind in kinds.items()]
        behind = self.shell.workspace.behind(view.collection)
        lines += [
            f"{name} lacks {behind[name]:,} documents that were added or changed since it was built; build it again in the Corpus tab."
            for name in kinds
            if name in behind
        ]
        return str(render_note(lines, any(name.startswith("demo-") for name in kinds)))

    def show_collection(self, name: str | None, message: str = "") -> list:
        """Values for :attr:`everything`: a collection to be asked, nothing asked yet."""
        workspace = self.shell.workspace
        if not workspace.collections():
            return [*self.show_controls(None), str(render_empty(message=message)), ""]
        try:
            view = default_view(workspace, name)
            documents = workspace.collection(view.collection).whole_size
        except Exception as error:
            return [*self.show_controls(None), str(render_empty(message=message or message_of(error))), ""]
        return [
            *self.show_controls(view),
            str(render_empty(documents=documents, collection=view.collection, message=message)),
            "",
        ]


def _choices(offered: list[AnyColumn], view: View) -> list[AnyColumn]:
    """What can be chosen, with the columns of the view: a fusion with weights of its own is not in the list."""
    return list(dict.fromkeys([*offered, view.a, view.b]))


def told_of(column: OtherColumn) -> str:
    """What a score is in a column that is no model."""
    if column.id == "bm25":
        return "BM25: words that query and document share count more the rarer they are, and less in a long document."
    if column.id.startswith("st:"):
        return f"{column.label}: the cosine of two vectors of a sentence encoder."
    if column.id.startswith("rrf("):
        return f"{column.label}: the sum of 1 / (60 + rank)."
    return f"{column.label}: how far each score lies above its mean over all documents, in standard deviations, weighted and added."


def build(shell: Shell) -> ExploreTab:
    """Lay out the tab and wire it."""
    with gr.Tab("Explore", id="explore"):
        with gr.Column(elem_classes="g-page"):
            with gr.Row(elem_classes="g-ask", equal_height=True):
                query = gr.Textbox(
                    show_label=False,
                    container=False,
                    placeholder="Ask about something the documents may tell …",
                    lines=1,
                    max_lines=4,
                    autofocus=True,
                    elem_id="g-query",
                    scale=1,
                )
                button = gr.Button("Search", variant="primary", elem_id="g-search", scale=0, min_width=110)
            with gr.Row(elem_classes="g-controls"):
                collection = gr.Dropdown(
                    [], label="Collection", filterable=False, elem_id="g-collection", min_width=150
                )
                typed_too = {
                    "allow_custom_value": True,
                    "info": None,
                    "min_width": 200,
                }  # a fusion with weights of one's own
                a = gr.Dropdown([], label="Column A", elem_id="g-a", **typed_too)
                b = gr.Dropdown([], label="Column B", elem_id="g-b", **typed_too)
                k = gr.Radio(list(SIZES), value=10, label="Neighbours", elem_id="g-k", min_width=150)
                where = gr.Textbox(
                    label="Filter", placeholder="such as year > 2000", max_lines=1, elem_id="g-where", min_width=220
                )
            by = gr.Radio(RANKS_BY, value="best", label="A document ranks by", elem_id="g-by", visible=False)
            facets = html(js="explore/facets", elem_id="g-facets")
            examples = html(js="page/examples", elem_id="g-examples")
            results = html(js="page/address page/shown explore/results", elem_id="g-results")
            export.build(shell.workspace)
            note = html(elem_id="g-note")
        detail = html(js=SCRIPTS, elem_id="g-detail", server_functions=answers(shell.workspace))
        opened = gr.State(None)
    tab = ExploreTab(
        shell,
        collection,
        a,
        b,
        k,
        by,
        query,
        where,
        button,
        examples,
        note,
        facets,
        results,
        detail,
        opened,
        NewestRequest(),
    )
    _wire(tab)
    return tab


def _wire(tab: ExploreTab) -> None:
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    asking = quiet | {"trigger_mode": "multiple", "concurrency_limit": SAME_TIME, "concurrency_id": "search"}
    inputs = [tab.collection, tab.a, tab.b, tab.k, tab.by, tab.where, tab.query]

    @runs_model
    def ask(collection, a, b, k, by, where, query, request: gr.Request):
        asked = {"collection": collection, "a": a, "b": b, "k": k, "by": by, "where": where, "q": query}
        for page_html in run(tab, asked, request.session_hash):
            yield (gr.skip(), gr.skip()) if page_html is None else (page_html, "")

    @runs_model
    def ask_again(collection, a, b, k, by, where, query, request: gr.Request):
        if query and query.strip():
            yield from ask(collection, a, b, k, by, where, query, request)
        else:
            yield gr.skip(), gr.skip()

    @runs_model
    def ask_example(event: gr.EventData, collection, a, b, k, by, where, request: gr.Request):
        query = event._data.get("query") if isinstance(event._data, dict) else None
        query = query if isinstance(query, str) else ""
        for page_html, closed in ask(collection, a, b, k, by, where, query, request):
            yield query, page_html, closed

    def ticked(event: gr.EventData, collection, where):
        return tick(tab, event, collection, where)

    def typed(collection, where):
        try:
            return str(render_facets(tab.shell.workspace.facets(collection).shown(where)))
        except GraceError:  # the results tell it
            return gr.skip()

    def choose(collection, request: gr.Request):
        tab.latest.start(request.session_hash)
        changed = tab.show_collection(collection)
        changed[tab.controls.index(tab.query)] = gr.skip()  # what is typed stays
        return changed

    def visited(collection):
        names = tab.shell.workspace.collections()
        if collection not in names:
            return tab.show_collection(None)
        return [gr.update(choices=names), *[gr.skip()] * (len(tab.everything) - 1)]

    gr.on([tab.button.click, tab.query.submit], ask, inputs, [tab.results, tab.detail], **asking)
    gr.on(
        [tab.a.input, tab.b.input, tab.k.input, tab.by.input, tab.where.submit],
        ask_again,
        inputs,
        [tab.results, tab.detail],
        **asking,
    )
    tab.where.submit(typed, [tab.collection, tab.where], tab.facets, **quiet)
    narrowed = tab.facets.select(ticked, [tab.collection, tab.where], [tab.where, tab.facets, tab.detail], **quiet)
    narrowed.success(ask_again, inputs, [tab.results, tab.detail], **asking)
    tab.examples.select(ask_example, inputs[:-1], [tab.query, tab.results, tab.detail], **asking)
    tab.results.shown(visited, tab.collection, tab.everything, **quiet)
    tab.collection.input(choose, tab.collection, tab.everything, **quiet)


def run(tab: ExploreTab, asked: dict, page: str) -> Iterator[str | None]:
    """The results of one search as they grow, an error in their place, or None at last if the page has asked
    for another meanwhile.

    The None matters: Gradio sends the last value of a generator once more when it ends, over what the newer
    search has shown.
    """
    number = tab.latest.start(page)
    view = None
    try:
        check_query(asked.get("q"))
        view, _ = read_view(tab.shell.workspace, asked, strict=True)
        for shot in search(tab.shell.workspace, view):
            if not tab.latest.is_current(page, number):
                break
            yield str(render_results(shot))
    except Exception as error:
        if tab.latest.is_current(page, number):
            yield str(render_failure(view.json() if view else None, message_of(error)))
    if not tab.latest.is_current(page, number):
        yield None


def tick(tab: ExploreTab, event: gr.EventData, collection: object, where: object) -> list:
    """The filter, and the facets as it leaves them, after a click on one; what is wrong as a message over the page."""
    try:
        data = event._data if isinstance(event._data, dict) else {}
        facets = tab.shell.workspace.facets(collection)
        where = facets.toggle(where if isinstance(where, str) else "", data.get("column"), data.get("value"))
        return [where, str(render_facets(facets.shown(where))), ""]
    except Exception as error:
        return [gr.skip(), gr.skip(), str(banner(message_of(error), kind="error floating"))]


def answers(workspace) -> list[Callable]:
    """What a click on a hit asks for, and the opened document while it stands open: ``server.open_hit``, ``why``, ``what_if``
    and ``worth`` of the scripts.
    """

    @runs_model
    def open_hit(data):
        return {"html": str(render_detail(open_document(workspace, read_hit(workspace, data)[0])))}

    @runs_model
    def why(data):
        return explain_hit(workspace, data)

    @runs_model
    def what_if(data):
        return answer_what_if(workspace, data)

    @runs_model
    def worth(data):
        return answer_worth(workspace, data)

    return server_functions({"open_hit": open_hit, "why": why, "what_if": what_if, "worth": worth})


def explain_hit(workspace, data: dict) -> dict:
    against = data.get("against") or ""
    if not isinstance(against, str) or len(against) > MAX_ID:
        raise GraceError("the page sent an event that does not fit; reload the page")
    return answer_why(workspace, data, against=against)


def open_page(tab: ExploreTab, request: gr.Request, problem: str = "") -> list:
    """Values for ``everything``, and the view that the address asks to be searched, or what stands in its place; ``problem``
    is what the caller found wrong with the address.
    """
    try:
        view, problems = read_view(tab.shell.workspace, dict(request.query_params))
    except Exception as error:
        return [*tab.show_collection(None, "" if isinstance(error, GraceError) else message_of(error)), NOTHING]
    problems = [*([problem] if problem else []), *problems]
    if problems or not view.query:
        values = tab.show_collection(view.collection, "; ".join(problems))
        controls = tab.show_controls(view)
        if not view.query:
            controls[tab.controls.index(tab.query)] = (
                gr.skip()
            )  # somebody may have typed one while the page was loading
        return [*controls, *values[len(tab.controls) :], NOTHING]
    return tab.show_asked(view)


def lead_here(tab: ExploreTab, component: gr.HTML, view_of: Callable[[object], View]) -> None:
    """Wire the event ``seek`` of another tab's component: Explore searches for the view that ``view_of`` makes of the event's
    data, and comes to the front. An error that it raises is shown there.
    """

    def seek(event: gr.EventData):
        try:
            values = tab.show_asked(view_of(event._data))
        except Exception as error:
            values = [*tab.show_collection(None, message_of(error)), NOTHING]
        return [*values, gr.Tabs(selected="explore")]

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    outputs = [*tab.everything, tab.opened, tab.shell.tabs]
    search_opened(tab, component.seek(seek, None, outputs, trigger_mode="multiple", **quiet))


def search_opened(tab: ExploreTab, event: Dependency) -> Dependency:
    """Search for what ``event`` has put into :attr:`ExploreTab.opened`.

    Two events and not one that yields: of answers that come at once, Gradio's page applies what the later
    ones change in an update to the earlier ones too, so that what only the first one tells, like which tab to
    select, may be lost.
    """

    @runs_model
    def further(asked: dict | None, request: gr.Request):
        yield from go_on(tab, asked, request)

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    outputs = [tab.results, tab.detail]
    return event.then(further, tab.opened, outputs, concurrency_limit=SAME_TIME, concurrency_id="search", **quiet)


def go_on(tab: ExploreTab, asked: dict | None, request: gr.Request) -> Iterator[list]:
    """The results, and the document if one is asked for, of a page that was just opened, or that another tab
    sent here.
    """
    if not asked or not asked.get("q"):
        yield [gr.skip(), gr.skip()]  # a generator without any value would empty its outputs
        return
    page_html = None
    for page_html in run(tab, asked, request.session_hash):
        yield [gr.skip() if page_html is None else page_html, gr.skip()]
    if asked.get("doc") and page_html is not None:
        try:
            view, _ = read_view(tab.shell.workspace, asked, strict=True)
            yield [gr.skip(), str(render_detail(open_document(tab.shell.workspace, view)))]
        except Exception as error:
            yield [str(banner(message_of(error))) + page_html, ""]
