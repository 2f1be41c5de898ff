"""HTML of the Corpus tab: the preview of a file, the estimate, the progress of a build, unfinished builds."""

from __future__ import annotations

from collections.abc import Sequence

from grace_app.corpus.builds import Build, Estimate
from grace_app.corpus.uploads import Split
from grace_app.explore.results import shorten
from grace_app.page.html import Safe, banner, chip, number, tag
from grace_core.passages import BEGIN, END, HEADING, PAGE, PARENT, count_words

COLUMNS, CELL, NAME = 8, 110, 40
LONGEST = 3_000  # characters of a passage at most


def render_preview(
    names: list[str], mapping: dict[str, str | None], rows: list[dict], notes: Sequence[str] = ()
) -> Safe:
    """The first rows as a table, with ``notes`` above; the columns of id, title and text come first, with a label."""
    roles = {column: role for role, column in mapping.items() if column}
    ordered = [column for role in ("id", "title", "text") if (column := mapping.get(role))]
    ordered += [name for name in names if name not in roles]
    visible, rest = ordered[:COLUMNS], len(ordered) - COLUMNS
    head = [
        tag(
            "th",
            tag("span", shorten(name, NAME) or "(no name)", title=name),
            chip(roles[name], kind=f"g-role g-role-{roles[name]}") if name in roles else None,
            scope="col",
            class_=f"g-col-{roles.get(name, 'other')}",
        )
        for name in visible
    ]
    body = [
        tag(
            "tr",
            *(
                tag("td", _cell(row.get(name)), dir="auto", class_=f"g-col-{roles.get(name, 'other')}")
                for name in visible
            ),
        )
        for row in rows
    ]
    note = (
        "The first rows"
        if rest <= 0
        else f"The first rows; {rest} more {'column' if rest == 1 else 'columns'} not shown"
    )
    but = ", but for what these notes tell" if notes else ""
    table = tag(
        "div",
        tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body)),
        class_="g-table",
        tabindex="0",
        role="region",
        aria_label="Preview",
    )
    return tag(
        "div",
        tag("div", f"{note}. Columns without a role are kept as metadata{but}.", class_="g-quiet g-small"),
        render_notes(notes),
        table,
        class_="g-preview",
    )


def render_split(split: Split) -> Safe:
    """The passages of the first documents, as in a build; text that a passage shares with the one before is grey."""
    documents = f"{number(split.documents)} {'document' if split.documents == 1 else 'documents'}"
    which = f"The {documents}" if split.whole else f"The first {documents}"
    summary = (
        f"{which} {'makes' if split.documents == 1 and split.whole else 'make'} {number(split.count)} {split.chunk}."
    )
    summary += f" The first {len(split.passages)}:" if split.count > len(split.passages) else ""
    rows, before = [], None
    for passage in split.passages:
        place, text = passage.metadata, passage.text
        same = before is not None and before[PARENT] == place[PARENT]
        common = max(0, before[END] - place[BEGIN]) if same else 0
        page = chip(f"page {place[PAGE]}") if place[PAGE] else None
        heading = chip(shorten(place[HEADING], NAME), title=place[HEADING]) if place[HEADING] else None
        words = f"{number(count_words(text))} words"
        head = tag(
            "div", chip(shorten(passage.id, NAME), title=passage.id), page, heading, chip(words), class_="g-chips"
        )
        shared = tag("span", text[:common], class_="g-shared") if common else None
        rows.append(
            tag("li", head, tag("p", shared, _own_text(text[common:], common) or tag("i", "no text"), dir="auto"))
        )
        before = place
    return tag(
        "div",
        tag("p", summary, class_="g-quiet g-small"),
        tag("ol", *rows, class_="g-split", aria_label="Passages"),
        class_="g-split-preview",
    )


def _own_text(text: str, common: int) -> str:
    """The text of a passage after the ``common`` part, stripped of blank lines."""
    return (text if common else text.lstrip()).rstrip()[:LONGEST]


def render_notes(notes: Sequence[str]) -> Safe | None:
    """A list of notes on what reading a file left out, changed or guessed, and what a build cut."""
    return (
        tag("ul", *(tag("li", note, dir="auto") for note in notes), class_="g-notes g-quiet g-small") if notes else None
    )


def _cell(value: object) -> str:
    return "" if value is None else shorten(value, CELL)


def render_no_preview(message: str | None = None) -> Safe:
    hint = tag(
        "div",
        tag("p", "The first rows of your file will stand here", class_="g-empty-title"),
        tag(
            "p",
            "JSONL, JSON, CSV, TSV, Parquet, Markdown, HTML, PDF, or a text file with a document on every line; packed with gzip or "
            "not. Of several text, Markdown, HTML and PDF files each is a document.",
        ),
        class_="g-empty",
    )
    return tag("div", banner(message), None if message else hint, class_="g-preview")


def render_estimate(estimate: Estimate) -> Safe:
    documents = f"{number(estimate.documents)} {'document' if estimate.documents == 1 else 'documents'}"
    parts = [
        tag("span", tag("b", documents)),
        tag("span", f"{number(estimate.words)} words"),
        tag("span", "at most " if estimate.at_most else "about ", tag("b", duration(estimate.seconds))),
    ]
    if estimate.empty:
        parts.append(tag("span", f"{number(estimate.empty)} empty ones are left out"))
    return tag("div", *parts, class_="g-summary g-estimate", role="status")


def render_job(job: Build | None) -> Safe:
    """A build's progress, with buttons to cancel, resume or explore it."""
    if job is None:
        return Safe("")
    # state, facts and buttons
    percent = 100 * job.done / job.total if job.total else 0
    words = {
        "waiting": "Starting",
        "loading": f"Loading {job.model}",
        "encoding": "Encoding",
        "finishing": "Writing the index",
        "done": "Ready",
        "stopped": "Stopped",
        "failed": "Failed",
    }
    state = "Stopping" if job.running and job.stop.is_set() else words[job.state]
    facts = []
    if job.total:
        facts.append(tag("span", tag("b", number(job.done)), f" of {number(job.total)} {job.unit}"))
    if job.state == "encoding" and job.rate:
        facts += [tag("span", f"{job.rate:.1f} texts/s"), tag("span", f"about {duration(job.seconds_left)} left")]
    buttons = []
    if job.running:
        buttons.append(_button("Cancel", "cancel", disabled=job.stop.is_set()))
    elif job.state == "done":
        buttons.append(_button("Explore it", "explore", kind="g-primary", data_collection=job.collection))
    elif job.built:
        buttons.append(
            _button("Resume", "resume", kind="g-primary", data_collection=job.collection, data_model=job.built)
        )
    bar = tag(
        "div",
        tag("div", class_="g-progress-fill", style=f"width:{percent:.1f}%"),
        class_="g-progress",
        role="progressbar",
        aria_valuemin="0",
        aria_valuemax=job.total or 100,
        aria_valuenow=job.done,
        aria_label=f"Building {job.collection}",
    )
    return tag(
        "div",
        tag(
            "div",
            tag("div", tag("strong", job.collection), tag("span", f"with {job.model}", class_="g-quiet")),
            tag("span", state, class_="g-state"),
            class_="g-job-head",
        ),
        bar,
        tag(
            "div", tag("div", *facts, class_="g-summary"), tag("div", *buttons, class_="g-buttons"), class_="g-job-foot"
        ),
        render_notes(job.notes),
        banner(job.message)
        if job.state == "failed"
        else tag("p", job.message, class_="g-quiet g-small")
        if job.message
        else None,
        class_=f"g-job g-job-{job.state}",
        data_state=job.state,
    )


def render_unfinished(builds: list[tuple[str, str]], message: str | None = None) -> Safe:
    if not builds and not message:
        return Safe("")
    rows = [
        tag(
            "li",
            tag("span", tag("b", collection), tag("span", f" with {model}", class_="g-quiet")),
            _button("Resume", "resume", data_collection=collection, data_model=model),
        )
        for collection, model in builds
    ]
    return tag(
        "div",
        tag("h3", "Unfinished builds") if rows else None,
        banner(message),
        tag("ul", *rows) if rows else None,
        class_="g-unfinished",
    )


def _button(label: str, action: str, *, kind: str = "", disabled: bool = False, **data) -> Safe:
    return tag(
        "button", label, type="button", class_=f"g-button {kind}".strip(), data_action=action, disabled=disabled, **data
    )


def duration(seconds: float | None) -> str:
    """Seconds in rounded units: s, min, h or days."""
    if seconds is None:
        return "…"
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
