"""Functions that the page's scripts call as ``server.name(data)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps

from grace_app.workspace.messages import message_of


def server_functions(functions: Mapping[str, Callable[[dict], dict]]) -> list[Callable]:
    """``functions`` by the names that the scripts know, for ``server_functions`` of a component.

    Each is given an object, ``{}`` in place of whatever else the page sends, and an error becomes ``{"error": sentence}``.
    """
    return [_answering(name, function) for name, function in functions.items()]


def _answering(name: str, function: Callable[[dict], dict]) -> Callable:
    @wraps(function)
    def answer(data):
        try:
            return function(data if isinstance(data, dict) else {})
        except Exception as error:
            return {"error": message_of(error)}

    answer.__name__ = name
    return answer
