"""How hits, explanations, ledgers and maps show themselves in a notebook: static HTML, without scripts, every text escaped.

Nothing is loaded from anywhere, so that a saved notebook shows the same later. The functions take the
library's own objects, whose ``_repr_html_`` they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

SNIPPET = 280  # characters of a text or rationale that are shown; the whole is in the element's title, up to LONGEST
LONGEST = 2_000
LINES = 500  # of a ledger that are shown
POINTS = 5_000  # of a map that are drawn, evenly spread; more would make a notebook slow
WIDTH = 620  # of a map, in pixels
COLOURS = (
    "#1f77b4",
    "#e6741e",
    "#2a9d4f",
    "#c8322f",
    "#8460ae",
    "#8a5647",
    "#d46fb6",
    "#6f6f6f",
    "#a8a51f",
    "#1aa3b4",
    "#4c5fb0",
    "#b08a1e",
)
GREY = "#b5bcc6"
_TABLE = "border-collapse:collapse;text-align:left;font-size:13px"
_CELL = "padding:4px 10px;vertical-align:top;text-align:left;border-bottom:1px solid #8884"


class Hits(list):
    """A list of hits that shows itself in a notebook."""

    def _repr_html_(self) -> str:
        return hits_html(self)


def hits_html(hits: Sequence) -> str:
    """A table of rank, score, document and rationale."""
    if not hits:
        return "<p>No document was found.</p>"
    written = any(hit.rationale for hit in hits)
    rows = []
    for hit in hits:
        document = hit.document
        title = f"<b>{_text(document.title)}</b><br>" if document.title else ""
        cells = [str(hit.rank), f"{hit.score:.4f}", _text(document.id), title + _text(document.text)]
        rows.append(
            [*cells, _text(hit.rationale) + (" <i>(cut off)</i>" if hit.truncated else "")] if written else cells
        )
    return _table(["rank", "score", "id", "document", *(["rationale"] if written else [])], rows)


def explanation_html(explanation) -> str:
    """The score by blocks, and what every sentence of the document contributes, largest first, with the residual."""
    blocks = [[escape(name), _signed(value)] for name, value in explanation.blocks().items()]
    sentences = sorted(explanation.document_sentences(), key=lambda pair: -pair[1])
    most = max((abs(value) for _, value in sentences), default=1.0) or 1.0
    rows = [[_signed(value), _bar(value / most), _text(sentence.text)] for sentence, value in sentences]
    head = (
        f"<p>score <b>{explanation.score:.4f}</b> = the sum of its parts, residual {abs(explanation.residual):.0e}</p>"
    )
    parts = _table(["query × document", "contribution"], blocks)
    return head + parts + _table(["contribution", "", "sentence of the document"], rows)


def ledger_html(ledger) -> str:
    """The score by what its parts are of, and every part with those that add up to it below; without tokens."""
    head = f"<p>{_text(ledger.document)}: rank {ledger.rank} by {_text(ledger.column)}, score <b>{ledger.score:.4f}</b>"
    head += f" = the sum of its parts, residual {abs(ledger.residual):.0e}</p>"
    totals = [[escape(group), _signed(value)] for group, value in ledger.totals().items()]
    by_group = _table(["of", "contribution"], totals) if len(totals) > 1 else ""
    rows = _ledger_rows(ledger, 0)
    left_out = len(rows) - LINES
    notes = [*ledger.notes, *([f"{left_out:,} further parts are not shown"] if left_out > 0 else [])]
    parts = _table(["contribution", "", "part", "what is known of it"], rows[:LINES])
    return head + by_group + parts + "".join(f"<p>{_text(note, LONGEST)}</p>" for note in notes)


def _ledger_rows(ledger, depth: int) -> list[list[str]]:
    most = max((abs(line.value) for line in ledger.walk()), default=1.0) or 1.0
    rows: list[list[str]] = []

    def add(lines: Sequence, depth: int) -> None:
        for line in lines:
            if line.kind == "token":
                continue
            about = ", ".join(
                f"{name} {f'{value:.4g}' if isinstance(value, float) else value}" for name, value in line.about.items()
            )
            name = f'<div style="padding-left:{16 * depth}px">{_text(line.name)}</div>'
            rows.append([_signed(line.value), _bar(line.value / most), name, _text(about)])
            add(line.parts, depth + 1)
            if line.opened:  # a score of its own, whose parts do not add up to this line
                own = f"its own score {line.opened.score:.4f} is made of"
                rows.append(["", "", f'<div style="padding-left:{16 * (depth + 1)}px"><i>{own}</i></div>', ""])
                rows.extend(_ledger_rows(line.opened, depth + 2))

    add(ledger.lines, depth)
    return rows


def map_html(map_) -> str:
    """The map as a drawing, coloured by region, with the regions' names; of three dimensions the first two."""
    points, labels = map_.points[:, :2].astype(float), map_.regions.labels
    if not len(points):
        return "<p>A map of no documents.</p>"
    low, span = points.min(axis=0), float((points.max(axis=0) - points.min(axis=0)).max()) or 1.0
    places = (points - low) / span * (WIDTH - 24) + 12
    places[:, 1] = places[:, 1].max() + 12 - places[:, 1]  # upwards, as on an axis
    height = round(float(places[:, 1].max()) + 12)
    step = max(1, -(-len(points) // POINTS))
    drawn, names = [], []
    for label in sorted(set(labels.tolist())):
        mine = places[::step][labels[::step] == label]
        path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in mine)
        colour = COLOURS[label % len(COLOURS)] if label >= 0 else GREY
        drawn.append(
            f'<path d="{path}" stroke="{colour}" stroke-width="5" stroke-linecap="round" stroke-opacity=".75" fill="none"/>'
        )
        if label >= 0:
            x, y = places[labels == label].mean(axis=0)
            name = map_.regions.names[label][:60]
            half = min(3.2 * len(name), WIDTH / 2)  # about, so that no name is cut off at an edge
            x = min(max(x, half), WIDTH - half)
            style = 'font-size="12" font-family="sans-serif" text-anchor="middle" stroke="#fff" stroke-width="3" paint-order="stroke"'
            names.append(f'<text x="{x:.0f}" y="{y:.0f}" {style} fill="#222">{_text(name)}</text>')
    note = f", of which {len(points[::step]):,} are drawn" if step > 1 else ""
    kept = map_.quality.get("knn_preservation")
    quality = f"; {100 * kept:.0f} % of the nearest neighbours are near on the map" if isinstance(kept, float) else ""
    caption = f"<p>{escape(str(map_.parameters.get('column', '')))}: {len(points):,} documents{note}{quality}</p>"
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    return f'<div><svg xmlns="http://www.w3.org/2000/svg" {size} style="background:#fff">{"".join(drawn + names)}</svg>{caption}</div>'


def _text(text: str, length: int = SNIPPET) -> str:
    line = " ".join(str(text)[:LONGEST].split())
    if len(line) <= length:
        return escape(line)
    return f'<span title="{escape(line)}">{escape(line[:length].rstrip())}…</span>'


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _bar(share: float) -> str:
    colour = "#2a9d4f" if share >= 0 else "#8460ae"
    return f'<div style="width:{round(90 * abs(share))}px;height:10px;background:{colour};border-radius:2px"></div>'


def _table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f'<th style="{_CELL}">{name}</th>' for name in head)
    body = "".join("<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) + "</tr>" for row in rows)
    return f'<table style="{_TABLE}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
