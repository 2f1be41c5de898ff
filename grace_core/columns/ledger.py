"""A score as a ledger: lines that add up to it, each of which opens into lines that add up to its own value.

What is left between a sum and what it should be is rounding, and is shown: ``residual``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from grace_core.notebook import ledger_html
from grace_core.pooling import PARTS, RATIONALE, TEMPLATE

if TYPE_CHECKING:
    from grace_core.explain import Explanation

# What a line counts towards in a fusion's totals: words of the query, the text, the rationale, the tokens
# that a template adds, what an average document has (a standardised score is relative to it), and a vector
# that cannot be split.
TERMS, TEXT_GROUP, RATIONALE_GROUP, TEMPLATE_GROUP, AVERAGE, WHOLE = (
    "terms",
    "text",
    "rationale",
    "template",
    "average document",
    "whole",
)
GROUPS = (TERMS, TEXT_GROUP, RATIONALE_GROUP, TEMPLATE_GROUP, WHOLE, AVERAGE)


@dataclass(frozen=True)
class Line:
    """A part of a score: what it is, what it adds, what is known of it, and the parts that add up to it
    (none: not opened).

    ``kind`` is column, passage, term, block, sentence, token, rounding, average, whole or rank. ``opened`` is the
    ledger of the part's own score, where that is not what the line adds: a reciprocal rank.
    """

    name: str
    value: float
    kind: str
    group: str = ""
    about: dict = field(default_factory=dict)
    parts: tuple[Line, ...] = ()
    opened: Ledger | None = None

    @property
    def residual(self) -> float:
        return self.value - sum(line.value for line in self.parts) if self.parts else 0.0

    def scaled(self, factor: float) -> Line:
        return replace(self, value=factor * self.value, parts=tuple(line.scaled(factor) for line in self.parts))

    def as_dict(self, *, tokens: bool = False) -> dict:
        payload = {"name": self.name, "kind": self.kind, "value": self.value}
        payload |= {"group": self.group} if self.group else {}
        payload |= {"about": self.about} if self.about else {}
        parts = [line.as_dict(tokens=tokens) for line in self.parts if tokens or line.kind != "token"]
        payload |= {"residual": self.residual, "parts": parts} if parts else {}
        return payload | ({"opened": self.opened.as_dict(tokens=tokens)} if self.opened else {})


@dataclass(frozen=True)
class Ledger:
    """Why ``document`` has its ``score`` and ``rank`` (from 1, among all documents) for ``query`` in ``column``.

    ``exact`` is false where a part could not be opened as far as its column reads texts; ``notes`` say why.
    ``explanation`` is the split by pairs of sentences, for columns of one model.
    """

    column: str
    query: str
    document: str
    score: float
    rank: int
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    exact: bool = True
    explanation: Explanation | None = field(default=None, repr=False)

    @property
    def sum(self) -> float:
        return sum(line.value for line in self.lines)

    @property
    def residual(self) -> float:
        return self.score - self.sum

    def largest_residual(self) -> float:
        """The largest, without its sign, at any depth; of ledgers inside too."""
        inside = [abs(line.residual) for line in self.walk()]
        opened = [line.opened.largest_residual() for line in self.walk() if line.opened]
        return max([abs(self.residual), *inside, *opened])

    def _repr_html_(self) -> str:
        return ledger_html(self)

    def walk(self) -> Iterator[Line]:
        """All lines at all depths, each before its parts."""
        waiting = list(reversed(self.lines))
        while waiting:
            line = waiting.pop()
            yield line
            waiting.extend(reversed(line.parts))

    def totals(self) -> dict[str, float]:
        """The score by what its parts are of: ``{"terms": …, "text": …, "rationale": …}``; they add up to
        :attr:`sum`.
        """
        totals: dict[str, float] = {}
        for line in self.walk():
            if line.group:
                totals[line.group] = totals.get(line.group, 0.0) + line.value
        return {group: totals[group] for group in GROUPS if group in totals}

    def as_dict(self, *, tokens: bool = False) -> dict:
        """For JSON; with the tokens on demand."""
        return {
            "column": self.column,
            "query": self.query,
            "document": self.document,
            "score": self.score,
            "rank": self.rank,
            "sum": self.sum,
            "residual": self.residual,
            "largest_residual": self.largest_residual(),
            "exact": self.exact,
            "totals": self.totals(),
            "lines": [line.as_dict(tokens=tokens) for line in self.lines],
            "notes": list(self.notes),
        }


def block_lines(explanation: Explanation) -> tuple[Line, ...]:
    """An explanation by pairs of parts, each by the document's sentences, each of these by its tokens."""
    lines = []
    for p in sorted({sentence.part for sentence in explanation.query.sentences}):
        asked = explanation.query.unit[explanation.query.parts == p].sum(axis=0)
        mine = [i for i, sentence in enumerate(explanation.query.sentences) if sentence.part == p]
        for q in sorted({sentence.part for sentence in explanation.document.sentences}):
            inside = []
            for j, sentence in enumerate(explanation.document.sentences):
                if sentence.part == q:
                    span = range(sentence.begin, sentence.end)
                    values = explanation.document.unit[sentence.begin : sentence.end] @ asked
                    tokens = tuple(
                        Line(explanation.document.pieces[t], float(v), "token")
                        for t, v in zip(span, values, strict=True)
                    )
                    inside.append(
                        Line(sentence.text, float(explanation.sentences[mine, j].sum()), "sentence", parts=tokens)
                    )
            group = _group({p, q})
            lines.append(
                Line(
                    f"{PARTS[p]} × {PARTS[q]}", sum(line.value for line in inside), "block", group, parts=tuple(inside)
                )
            )
    return tuple(lines)


def with_rounding(line: Line, value: float) -> Line:
    """A line of this value, of the same parts and one for what they round otherwise."""
    return replace(
        line,
        value=value,
        parts=(*line.parts, Line("rounding", value - sum(part.value for part in line.parts), "rounding")),
    )


def _group(parts: set[int]) -> str:
    if TEMPLATE in parts:
        return TEMPLATE_GROUP
    return RATIONALE_GROUP if RATIONALE in parts else TEXT_GROUP


def table(ledger: Ledger, *, tokens: bool = False, width: int = 100) -> list[str]:
    """The ledger as lines of text, indented by depth."""
    lines = [f"score {ledger.score:.6f}, sum of its parts {ledger.sum:.6f}, residual {ledger.residual:.1e}"]
    if len(ledger.totals()) > 1:
        lines.append("  " + " ".join(f"{value:+.4f} {group}" for group, value in ledger.totals().items()))
    return [*lines, *_rows(ledger.lines, 1, tokens, width), *(f"  {note}" for note in ledger.notes)]


def _rows(lines: Sequence[Line], depth: int, tokens: bool, width: int) -> Iterator[str]:
    for line in lines:
        if line.kind == "token" and not tokens:
            continue
        about = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in line.about.items()
        )
        name = " ".join(line.name.split())[:width] or repr(line.name)
        yield f"{'  ' * depth}{line.value:+.4f}  {name}{f'  ({about})' if about else ''}"
        yield from _rows(line.parts, depth + 1, tokens, width)
        if line.opened:
            yield from (f"{'  ' * (depth + 1)}{row}" for row in table(line.opened, tokens=tokens, width=width))
