"""Long documents as passages: where a text is split, and documents ranked by their passages.

A passage is a piece ``text[begin:end]`` of a document's text. Without overlap the pieces tile the text: put
together they are the text, to the character; a piece ends with the white space behind it. It holds at most
``words`` words, and ends, in this order of preference, where a page ends (always), before a heading (if there
is a quarter of ``words`` or more before it), at the end of a sentence or a paragraph, of a line, of a word.
With ``overlap`` a passage begins with the last sentences of the one before, up to so many words, within a
page and a section.

    page       ends with a form feed, as those of a PDF file do here and in what pdftotext writes
    heading    a line "## Rivers", or one with === or --- below it, as in Markdown; not within a fence of code
    sentence   ends in . ! ? … (perhaps a quote or bracket) and white space, or in 。！？ and their like; a blank line ends one too
    word       a run of characters that are no white space, of at most 40; two characters of Chinese or Japanese, five of Thai, Lao, Burmese
               or Khmer, which are written without spaces

A document's score is that of its best passage (``best``), or the sum over its passages (``sum``), which
favours long documents: MaxP and SumP of Dai and Callan, Deeper Text Understanding for IR with Contextual
Neural Language Modeling, SIGIR 2019.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from grace_core.errors import GraceError

PARENT, BEGIN, END, PAGE, HEADING = RESERVED = (
    "_parent",
    "_begin",
    "_end",
    "_page",
    "_heading",
)  # columns of a collection of passages
BY = ("best", "sum")
MOST_WORDS = 100_000
SECTION = 4  # a heading begins a new passage where at least 1/SECTION of ``words`` stand before it
MORE = 4  # times more rows are asked for when too few documents are among them
PAGE_BREAK = "\f"

ENDS, FULL_STOPS, CLOSING = ".!?…", "。！？｡．।॥؟۔։።", "\"'”’)]"
# Han and kana; Thai, Lao, Burmese, Khmer; signs that follow a word and belong to it
_PAIRS = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
_FIVES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_MARKS = f"\u3000-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65{FULL_STOPS}"
_WORD = re.compile(
    f"(?:[{_PAIRS}]{{1,2}}|[{_FIVES}]{{1,5}}|[^\\s{_PAIRS}{_FIVES}{_MARKS}]{{1,40}})[{_MARKS}]*|[{_MARKS}]+"
)
_BEHIND = "\u200d\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3"  # the joiner, and vowels of Thai and Lao, which follow a consonant
_AFTER = re.compile(rf"(?<=[{ENDS}{re.escape(CLOSING)}])\s+")
_BLANK, _PAGE = re.compile(r"\n\s*\n\s*"), re.compile(r"\f\s*")
_STOP = re.compile(f"[{FULL_STOPS}]+[{re.escape(CLOSING)}」』）]*")
_INNER = (
    re.compile(r"\n\s*"),
    re.compile(r"\s+|[，、；：,;]+\s*"),
)  # where a sentence is cut that is too long: at its lines, at its words
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_PERHAPS = re.compile(r"^ {0,3}(#{1,6}[ \t]|=+[ \t]*$|-+[ \t]*$)", re.MULTILINE)


@dataclass(frozen=True)
class Chunk:
    """How documents are split: passages of at most ``words`` words, of which up to ``overlap`` are those at
    the end of the one before.
    """

    words: int
    overlap: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.words <= MOST_WORDS:
            raise GraceError(
                f"--chunk is {self.words}, expected 1 to {MOST_WORDS:,} words; 100 to 300 suit most models"
            )
        if self.overlap < 0:
            raise GraceError(f"--overlap is {self.overlap}, expected 0 words or more, and fewer than --chunk")
        if self.overlap >= self.words:
            raise GraceError(
                f"--overlap is {self.overlap}, expected fewer words than the {self.words} of --chunk; a fifth of it is usual"
            )

    def __str__(self) -> str:
        shared = f", up to {self.overlap} of them shared with the one before" if self.overlap else ""
        return f"passages of at most {self.words} {'word' if self.words == 1 else 'words'}{shared}"


@dataclass(frozen=True)
class Passage:
    """Characters ``begin`` to ``end`` of a text, the page they begin on (from 1; None without pages) and the
    heading they stand under.
    """

    begin: int
    end: int
    page: int | None = None
    heading: str = ""


@dataclass(frozen=True)
class Heading:
    """Characters ``begin`` to ``end`` of a text, the ends of its lines among them, and what it says."""

    begin: int
    end: int
    title: str


def headings(text: str) -> list[Heading]:
    """The headings of a text as Markdown has them, without those in fences of code and in front matter."""
    if not _PERHAPS.search(text):
        return []
    rows, result, offset, fence = text.split("\n"), [], 0, None
    skipped = 0
    if rows[0].strip() == "---" and "---" in (row.strip() for row in rows[1:200]):  # front matter
        skipped = 2 + [row.strip() for row in rows[1:200]].index("---")
    used = -1  # the last row that is part of a heading
    for place, row in enumerate(rows):
        begin, offset = offset, offset + len(row) + 1
        if place < skipped or place <= used:
            continue
        if mark := _FENCE.match(row):
            fence = mark[1][:3] if fence is None else None if fence == mark[1][:3] else fence
            continue
        if fence is not None or len(row) >= 1000 or not row.strip():
            continue
        sharp = _HEADING.fullmatch(row)
        if sharp and sharp[1]:
            result.append(Heading(begin + _indent(row), min(offset, len(text)), sharp[1]))
        elif place + 1 < len(rows) and _UNDERLINE.fullmatch(rows[place + 1]) and _plain(row):
            result.append(Heading(begin + _indent(row), min(offset + len(rows[place + 1]) + 1, len(text)), row.strip()))
            used = place + 1
    return result


def _indent(row: str) -> int:
    return len(row) - len(row.lstrip())


def _plain(row: str) -> bool:
    """Whether a line above dashes may be a heading: no list, quote, table or indented code."""
    return not re.match(r"\s{4}|\s*([-*+>|]|[0-9]+[.)])", row) and "|" not in row


def count_words(text: str) -> int:
    """Words as passages count them."""
    return len(_word_starts(text))


def _word_starts(text: str) -> array:
    """Where words begin; none at a mark that combines with what stands before it."""
    starts = array("q", [match.start() for match in _WORD.finditer(text)])
    if text.isascii():
        return starts
    return array("q", (start for start in starts if not (start and _joins(text[start], text[start - 1]))))


def _joins(character: str, before: str) -> bool:
    """Whether a character is shown together with the one before it."""
    if character.isascii() or before.isspace():
        return before == "\u200d" and not character.isspace()
    return before == "\u200d" or character in _BEHIND or unicodedata.category(character)[0] == "M"


def split(text: str, chunk: Chunk) -> list[Passage]:
    """The passages of a text, in its order; one at least, if only of white space.

    What :class:`Passage` says holds of each.
    """
    starts = _word_starts(text)
    if not starts:
        return [Passage(0, len(text), 1 if PAGE_BREAK in text else None)]
    title_lines = headings(text)
    units = _units(text, starts, title_lines, chunk)
    breaks = array("q", (match.start() for match in re.finditer(PAGE_BREAK, text)))
    first_titles = [heading.begin for heading in title_lines]
    passages = []
    for begin, end in _packed(units, starts, breaks, set(first_titles), chunk):
        seen = starts[bisect_left(starts, begin)]  # the first character that is no white space
        page = bisect_right(breaks, seen) + 1 if breaks else None
        place = bisect_right(first_titles, seen) - 1
        passages.append(Passage(begin, end, page, title_lines[place].title if place >= 0 else ""))
    return passages


def _units(text: str, starts: array, title_lines: list[Heading], chunk: Chunk) -> list[tuple[int, int]]:
    """Sentences, and pieces of those that are too long; they tile the text, with a word at least and
    ``chunk.words`` at most each.
    """
    places = [match.end() for match in _AFTER.finditer(text) if _ends_sentence(text, match.start())]
    places += [match.end() for pattern in (_STOP, _BLANK, _PAGE) for match in pattern.finditer(text)]
    places += [place for heading in title_lines for place in (heading.begin, heading.end)]
    units: list[tuple[int, int]] = []

    def add(begin: int, end: int, level: int) -> None:
        first, last = bisect_left(starts, begin), bisect_left(starts, end)
        if last - first <= chunk.words:
            units.append((begin, end))
        elif level == len(_INNER):
            units.extend(zip([begin, *starts[first + 1 : last]], [*starts[first + 1 : last], end], strict=True))
        else:
            ends = _cuts([match.end() for match in _INNER[level].finditer(text, begin, end)], starts, begin, end)
            for one, other in zip([begin, *ends], [*ends, end], strict=True):
                add(one, other, level + 1)

    cuts = _cuts(places, starts, starts[0], len(text))
    for one, other in zip([0, *cuts], [*cuts, len(text)], strict=True):
        add(one, other, 0)
    return units


def _cuts(places: list[int], starts: array, begin: int, end: int) -> list[int]:
    """The beginnings of words at or behind ``places``, within the borders: white space belongs to the piece
    before it.
    """
    beginnings = {starts[word] for word in map(partial(bisect_left, starts), places) if word < len(starts)}
    return sorted(place for place in beginnings if begin < place < end)


def _ends_sentence(text: str, place: int) -> bool:
    """Whether what stands before ``place`` is the end of a sentence."""
    least = max(0, place - 5)
    while place > least and text[place - 1] in CLOSING:
        place -= 1
    return place > 0 and text[place - 1] in ENDS


def _packed(
    units: list[tuple[int, int]], starts: array, breaks: array, titles: set[int], chunk: Chunk
) -> list[tuple[int, int]]:
    """Units put together to passages: ``(begin, end)`` each."""
    first = [bisect_left(starts, begin) for begin, _ in units]  # of the first word of each unit
    sizes = [after - before for before, after in zip(first, [*first[1:], len(starts)], strict=True)]
    pages = [bisect_right(breaks, starts[word]) for word in first]
    is_title = [starts[word] in titles for word in first]
    passages: list[tuple[int, int]] = []
    begin, words = 0, 0  # the passage on its way holds the units from ``begin``
    fresh = 0  # the first of them that is in no passage yet
    place = 0
    while place < len(units):
        new_page = place > fresh and pages[place] != pages[place - 1]
        new_section = place > fresh and is_title[place] and not is_title[place - 1] and words * SECTION >= chunk.words
        if new_page or new_section or words + sizes[place] > chunk.words:
            if place == fresh:  # what is shared with the passage before leaves no room
                begin, words = begin + 1, words - sizes[begin]
                continue
            end = place
            while (
                not new_page and not new_section and end - 1 > fresh and is_title[end - 1]
            ):  # a heading goes with what it is about
                end -= 1
            passages.append((units[begin][0], units[end - 1][1]))
            fresh = place = begin = end
            words = 0
            while not new_page and not new_section and words + sizes[begin - 1] <= chunk.overlap:
                if is_title[begin] or pages[begin - 1] != pages[end - 1] or units[begin - 1][0] <= passages[-1][0]:
                    break
                begin -= 1
                words += sizes[begin]
            continue
        words += sizes[place]
        place += 1
    passages.append((units[begin][0], units[-1][1]))
    return passages


# Documents by their passages


@dataclass(frozen=True)
class Group:
    """A document with its passages among those that were ranked: its number, its score, and their rows and
    scores, best first.
    """

    document: int
    score: float
    rows: tuple[int, ...]
    scores: tuple[float, ...]


def group(scores: np.ndarray, rows: np.ndarray, documents: np.ndarray, k: int, by: str = "best") -> list[Group]:
    """The ``k`` best documents, best first and equal ones in the order of the corpus, by scores ``(n,)`` of
    passages at ``rows`` ``(n,)``.

    ``documents`` ``(all,)`` has the number of each row's document. By ``best`` this is exact from the best
    passages alone, if these are of ``k`` documents; by ``sum`` all rows that count must be there, and are
    added in fp64 in their order. Raises GraceError for another ``by``.
    """
    if by not in BY:
        raise GraceError(f"documents can be ranked by {' or '.join(BY)} of their passages, got {str(by)[:40]!r}")
    if len(rows) == 0:
        return []
    in_order = np.lexsort((rows, -scores))
    rows, scores = np.asarray(rows)[in_order], np.asarray(scores)[in_order]
    mine = documents[rows]
    unique, first, inverse = np.unique(mine, return_index=True, return_inverse=True)
    if by == "best":
        totals = scores[first].astype(np.float64)
    else:
        ascending = np.argsort(rows, kind="stable")
        totals = np.bincount(inverse[ascending], weights=scores[ascending].astype(np.float64), minlength=len(unique))
    earliest = np.full(len(unique), np.iinfo(np.int64).max)
    np.minimum.at(earliest, inverse, rows)
    # of equal best passages the earlier stands first, as in a ranking of passages; of equal sums the earlier document
    ties = rows[first] if by == "best" else earliest
    best = np.lexsort((ties, -totals))[:k]
    places = np.argsort(inverse, kind="stable")
    bounds = np.searchsorted(inverse[places], np.arange(len(unique) + 1))
    groups = []
    for document in best:
        own = places[bounds[document] : bounds[document + 1]]
        groups.append(
            Group(
                int(unique[document]), float(totals[document]), tuple(rows[own].tolist()), tuple(scores[own].tolist())
            )
        )
    return groups


def best_documents(
    search: Callable[[int], tuple[np.ndarray, np.ndarray]], documents: np.ndarray, k: int, count: int
) -> list[Group]:
    """The ``k`` documents with the best passages.

    ``search(n)`` gives scores and rows of the ``n`` best of ``count`` passages, or fewer if there are no
    more; it is asked for more until there are ``k`` documents among them."""
    wanted = min(count, MORE * k)
    while True:
        scores, rows = search(max(1, wanted))
        enough = len(np.unique(documents[rows])) >= k if len(rows) >= k else False
        if enough or len(rows) < wanted or wanted >= count:
            return group(scores, rows, documents, k)
        wanted = min(count, MORE * wanted)


def found_documents(
    documents: np.ndarray,
    k: int,
    by: str,
    *,
    search: Callable[[int], tuple[np.ndarray, np.ndarray]],
    scores_at: Callable[[np.ndarray], np.ndarray],
    among: np.ndarray | None = None,
) -> list[Group]:
    """The ``k`` best documents of a search, each with all its passages.

    ``documents`` ``(n,)`` has the number of each row's document; ``search(m)`` gives scores and rows of the
    ``m`` best passages, ``scores_at(rows)`` the scores of some. ``among`` are the rows that a filter leaves,
    None for all: passages that it leaves out are shown, and count for nothing."""
    if k < 1:
        raise GraceError(f"k must be at least 1, got {k}")
    if by == "best":
        ranked = best_documents(search, documents, k, len(documents) if among is None else len(among))
    else:
        rows = np.arange(len(documents)) if among is None else among
        ranked = group(scores_at(rows), rows, documents, k, by)
    whole = []
    for hit in ranked:
        rows = np.flatnonzero(documents == hit.document)
        (own,) = group(scores_at(rows), rows, documents, 1)
        first = hit.rows[0]  # the best that the filter leaves
        others = [(row, score) for row, score in zip(own.rows, own.scores, strict=True) if row != first]
        ordered = [(first, hit.scores[0]), *others]
        whole.append(
            Group(hit.document, hit.score, tuple(row for row, _ in ordered), tuple(score for _, score in ordered))
        )
    return whole


def numbered(parents: Sequence[str]) -> np.ndarray:
    """The number of each row's document ``(n,)``, from 0 in the order in which they come first."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(parent, len(numbers)) for parent in parents], dtype=np.int64)
