"""An HTML page as text: its title, and its content with a line a block and headings as Markdown has them ("## Rivers").

Scripts, styles and what a browser does not show as text are left out; white space is that of the page as
shown. Heads, menus and footers stay, since what of a page is beside the point cannot be known. The encoding
is that of a byte order mark, of the page's own <meta> or XML declaration, or else UTF-8, or Windows-1252
where the bytes are not UTF-8, as browsers take it.
"""

from __future__ import annotations

import codecs
import re
from html.parser import HTMLParser

SKIPPED = {
    "script",
    "style",
    "template",
    "noscript",
    "svg",
    "iframe",
    "object",
    "canvas",
    "audio",
    "video",
    "datalist",
    "head",
}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
# a blank line before and after; a new line
PARAGRAPHS = {
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "details",
    "dl",
    "fieldset",
    "figure",
    "footer",
    "form",
    "header",
    "hgroup",
    "hr",
    "main",
    "menu",
    "nav",
    "ol",
    "p",
    "pre",
    "section",
    "table",
    "ul",
    *HEADINGS,
}
LINES = {
    "br",
    "caption",
    "center",
    "dd",
    "dialog",
    "div",
    "dt",
    "figcaption",
    "legend",
    "li",
    "option",
    "summary",
    "tr",
}
BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# the encodings of https://encoding.spec.whatwg.org that Python has; some other Python codecs do not encode text
ENCODINGS = re.compile(
    r"utf-?8|(windows|cp)-?(125[0-8]|874|1251)|iso-?8859-?(1?\d)|latin-?1|(us-)?ascii|koi8-[ru]|gbk|gb2312|gb18030|big5(-hkscs)?|"
    r"euc-(jp|kr)|shift[-_]jis|iso-2022-jp|macintosh|ks_c_5601-1987"
)
_ALIASES = {
    "macintosh": "mac_roman",
    "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
}
_DECLARED = re.compile(
    rb"""<meta[^>]{0,400}?charset\s*=\s*["']?\s*([\w.:-]{1,40})|<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})""",
    re.IGNORECASE,
)
_SPACE = re.compile("[ \t\n\r\f]+")


def decode(data: bytes) -> tuple[str, list[str]]:
    """The decoded text of a page, and notes: an encoding that was guessed, bytes that are invalid in it."""
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return _decoded(data[len(mark) :], encoding, [])
    declaration = _DECLARED.search(data[:4096])
    label = (declaration[1] or declaration[2]).decode("ascii", "ignore").lower() if declaration else ""
    notes = []
    if label.startswith("utf-16"):  # the declaration was read as ASCII, so the page is not UTF-16
        label = "utf-8"
    if label and ENCODINGS.fullmatch(label):
        if re.fullmatch(r"iso-?8859-?1|latin-?1|(us-)?ascii", label):  # as browsers do
            label = "windows-1252"
        try:
            return _decoded(data, codecs.lookup(_ALIASES.get(label, label)).name, notes)
        except LookupError:
            pass
    if label:
        notes.append(f"the encoding {label!r} that pages name is not known, and UTF-8 is taken")
        return _decoded(data, "utf-8", notes)
    try:
        return data.decode("utf-8"), notes
    except UnicodeDecodeError:
        return _decoded(data, "cp1252", ["pages that name no encoding and are not UTF-8 are read as Windows-1252"])


def _decoded(data: bytes, encoding: str, notes: list[str]) -> tuple[str, list[str]]:
    try:
        return data.decode(encoding), notes
    except UnicodeDecodeError:
        return data.decode(encoding, "replace"), [
            *notes,
            f"bytes that are not {encoding.upper()} are replaced by U+FFFD in pages",
        ]


def page_text(markup: str) -> tuple[str, str, list[str]]:
    """Title (<title>, else the first <h1>, else ""), text and notes of an HTML page."""
    page = _Page()
    page.feed(markup)
    page.close()
    notes = [f"pages end within <{page.skipped[0]}>, and what is behind its begin is left out"] if page.skipped else []
    title = "".join(page.title) if "".join(page.title).strip() else "".join(page.first)
    return _SPACE.sub(" ", title).strip(), "".join(page.out).strip(), notes


class _Page(HTMLParser):
    """Collects the text in :attr:`out`; line breaks and spaces are added only before further text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self.title: list[str] = []
        self.first: list[str] = []  # the text of the first <h1>
        self.skipped: list[str] = []  # open elements whose content is left out
        self._breaks, self._space, self._prefix = 0, False, ""
        self._pre = 0
        self._in_title = False
        self._heading = 0  # 1 within the first <h1>, 2 after it

    def handle_starttag(self, tag: str, attrs) -> None:
        if tag == "body":
            self.skipped = [open_ for open_ in self.skipped if open_ != "head"]  # its end may be left out
        self._in_title = tag == "title" and not self.title and all(open_ == "head" for open_ in self.skipped)
        if tag in SKIPPED:
            self.skipped.append(tag)
            return
        if self.skipped == ["head"] and (tag in PARAGRAPHS or tag in LINES):
            self.skipped = []
        self._at(tag)
        if tag in HEADINGS:
            self._prefix = HEADINGS[tag]
            self._heading = 1 if tag == "h1" and not self._heading else self._heading
        if tag in ("td", "th"):
            self._space = True
        self._pre += tag == "pre"

    def handle_startendtag(self, tag: str, attrs) -> None:
        if tag in VOID:
            self.handle_starttag(tag, attrs)
        elif tag not in SKIPPED:  # browsers take <p/> for <p>; a skipped one would never be closed
            self.handle_starttag(tag, attrs)
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False
        if tag in self.skipped:
            del self.skipped[len(self.skipped) - 1 - self.skipped[::-1].index(tag) :]
            return
        self._at(tag)
        if tag in HEADINGS:
            self._prefix = ""
            self._heading = 2 if self._heading == 1 and tag == "h1" else self._heading
        self._pre = max(0, self._pre - (tag == "pre"))

    def _at(self, tag: str) -> None:
        self._breaks = max(self._breaks, 2 if tag in PARAGRAPHS else 1 if tag in LINES else 0)

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
            return
        if self.skipped or not data:
            return
        text = data if self._pre else _SPACE.sub(" ", data)
        if not text.strip():
            self._space = True
            self._breaks = max(self._breaks, min(2, text.count("\n")) if self._pre else 0)
            return
        body = text.strip("\n") if self._pre else text.strip(" ")
        if self._breaks and self.out:
            self.out.append("\n" * self._breaks)
        elif self.out and (self._space or text[0] in " \n"):
            self.out.append("\n" if text[0] == "\n" else " ")
        if self._prefix:
            self.out.append(self._prefix)
        self.out.append(body)
        if self._heading == 1:
            self.first.append(f" {body}" if self._space else body)
        self._breaks, self._prefix = 0, ""
        self._space = not self._pre and text[-1] == " "
        if self._pre and text[-1] == "\n":
            self._breaks = 1
