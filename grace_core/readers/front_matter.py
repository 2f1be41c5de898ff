"""Front matter: the YAML between two lines of ``---`` at the head of a Markdown file."""

from __future__ import annotations

import re
from typing import Any

import yaml

LONGEST = 65_536  # characters
_BLOCK = re.compile(r"---[ \t]*\n(.*?\n)??(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_NONE = ("", "~", "null")
_OWN = ("_id", "id", "text")  # a file has these by itself


def front_matter(text: str) -> tuple[dict[str, Any], str, str]:
    """The values of a text's front matter by name, the text behind it, and why front matter was left in the text ("" if
    it was not).

    Values are text, None, lists and objects of these: what YAML 1.1 makes of ``no``, ``12:30`` or ``1.10`` is seldom what
    was meant. An ``id`` or ``text`` is called ``source_id`` or ``source_text``. YAML with aliases is left in the text,
    since a few lines of it can stand for gigabytes.
    """
    block = _BLOCK.match(text)
    if not block:
        return {}, text, ""
    inside = block[1] or ""
    if len(inside) > LONGEST:
        return {}, text, f"longer than {LONGEST:,} characters"
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(inside, yaml.BaseLoader)):
            return {}, text, "YAML with aliases"
        values = yaml.BaseLoader(inside).get_single_data()  # text, lists and dicts, and nothing else
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):  # TypeError: a name that is a list
        return {}, text, "malformed YAML"
    if isinstance(values, dict):
        named = {f"source_{name}" if name in _OWN else name: _plain(value) for name, value in values.items()}
        return named, text[block.end() :], ""
    return ({}, text[block.end() :], "") if not inside.strip() else ({}, text, "")  # two rules and words


def _plain(value: Any) -> Any:
    return None if value in _NONE else value
