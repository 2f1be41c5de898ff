"""The one exception that a user is meant to read, the one that ends work on request, and what others say in a line."""

from __future__ import annotations


class GraceError(ValueError):
    """Bad input or a state that needs the user: the message says what was got, what was expected, and what to do."""


class Stopped(Exception):
    """Long work was asked to stop; what the work says of itself tells what is kept."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, and the second where that only announces it; or its kind."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:200]
