"""What may be given as texts: any sequence of strings, in its own order."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from grace_core.errors import GraceError


def as_list(values: Iterable, name: str = "texts", *, of: str = "str") -> list:
    """The values of a sequence or an iterable, by position: a list, tuple, generator, array, Arrow array, or
    a pandas Series.

    Raises GraceError for what has no order (a set), what holds something else besides (a dict, a table), a
    single text, and what cannot be gone through.
    """
    if isinstance(values, list):
        return values
    kind = type(values).__name__
    if isinstance(values, (str, bytes, bytearray)):
        raise GraceError(f"{name} must be a list of {of}, got a single {kind}; wrap it in a list")
    if isinstance(values, Mapping):
        raise GraceError(
            f"{name} must be a list of {of}, got a {kind}, whose keys are not its values; give list(….values())"
        )
    if isinstance(values, (set, frozenset)):
        raise GraceError(f"{name} must be a list of {of}, got a {kind}, which has no order; give a list")
    if hasattr(values, "columns") or hasattr(values, "column_names"):
        raise GraceError(f"{name} must be a list of {of}, got a {kind}, a table; give one of its columns")
    if getattr(values, "ndim", 1) != 1:
        raise GraceError(f"{name} must be a list of {of}, got a {kind} of {values.ndim} dimensions; give one of 1")
    if hasattr(values, "to_pylist"):  # Arrow, whose items are scalars of its own
        return values.to_pylist()
    try:
        return list(values)
    except TypeError:
        raise GraceError(f"{name} must be a list of {of}, got a {kind}; give a list") from None


def as_texts(texts: Iterable[str], name: str = "texts") -> list[str]:
    """:func:`as_list`, with strings of other libraries as plain ones.

    What is no string stays, to be refused with its position.
    """
    return [str(text) if isinstance(text, str) and type(text) is not str else text for text in as_list(texts, name)]


def as_text(text: Any, name: str = "text") -> str:
    """A single text. Raises GraceError for anything else."""
    if not isinstance(text, str):
        raise GraceError(f"{name} must be a str, got {type(text).__name__}")
    return str(text)


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: white space, control and format characters such as the zero-width ones."""
    return all(character.isspace() or unicodedata.category(character) in ("Cc", "Cf") for character in text)
