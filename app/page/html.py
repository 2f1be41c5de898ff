"""Building HTML so that escaping is what happens when one does nothing.

Documents, rationales, file names, column names and queries are untrusted text. :func:`tag` escapes every
child and every attribute that is not :class:`Safe`, and only :func:`tag` and :func:`join` make :class:`Safe`;
no other module of the app writes a ``<``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from html import escape

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# what HTML cannot hold, even escaped
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")

Child = "Safe | str | int | float | None | Iterable[Child]"


class Safe(str):
    """Markup made by :func:`tag`: it may stand in a page as it is."""

    __slots__ = ()


def text(value: object) -> Safe:
    """``value`` as text of a page: markup characters escaped, characters that a page cannot hold replaced."""
    return Safe(escape(_FORBIDDEN.sub("\ufffd", str(value)), quote=True))


def join(*children) -> Safe:
    """Children one after another: :class:`Safe` as it is, other text escaped, None left out, iterables flattened."""
    parts = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Safe):
            parts.append(child)
        elif isinstance(child, Iterable) and not isinstance(child, str):
            parts.append(join(*child))
        else:
            parts.append(text(child))
    return Safe("".join(parts))


def tag(name: str, *children, **attributes) -> Safe:
    """An element.

    ``class_`` gives class and ``data_doc`` gives data-doc; an attribute that is None or False is left out,
    True is bare.

    Raises ValueError for a tag or attribute name that is no plain name, so that a name can never come from a document.
    """
    written = [_checked(name)]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = _checked(key.rstrip("_").replace("_", "-"))
        if attribute.startswith("on"):
            raise ValueError(f"{attribute}: behaviour belongs in a script, not in an attribute")
        written.append(attribute if value is True else f'{attribute}="{text(value)}"')
    return Safe(f"<{' '.join(written)}>{join(*children)}</{name}>")


def banner(message: str | None, *, kind: str = "error") -> Safe:
    """One line in place that says what is wrong and what to do; nothing without a message."""
    if not message:
        return Safe("")
    role = "alert" if kind == "error" else "status"
    return tag(
        "div",
        tag("span", "!" if kind == "error" else "i", class_="g-banner-mark", aria_hidden="true"),
        tag("span", message),
        class_=f"g-banner g-banner-{kind}",
        role=role,
    )


def drawing(payload: dict) -> str:
    """What a script of the page is to draw, as JSON in which nothing looks like markup."""
    return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")


def chip(label: object, *, title: str | None = None, kind: str = "") -> Safe:
    return tag("span", label, class_=f"g-chip {kind}".strip(), title=title)


def cut_chip(what: str, tokens: int, left_out: int | None = None) -> Safe:
    """That a text was cut to fit the prompt: how many tokens the model read, and of how many where that is known."""
    total = f" of {number(tokens + left_out)}" if left_out else ""
    return chip(
        f"{what} cut after {number(tokens)}{total} tokens",
        kind="g-flag",
        title="The rest did not fit into the prompt and is in no vector. grace index build has --max-prompt-tokens for more.",
    )


def number(value: float) -> str:
    return f"{value:,}"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no plain element or attribute name")
    return name
