"""Why the server does not answer a request."""

from __future__ import annotations


class QueueFull(Exception):
    """Too much is waiting; ``retry_after`` is the time in whole seconds in which about half of it will be done."""

    def __init__(self, waiting: int, retry_after: int):
        super().__init__(f"{waiting} texts are waiting already; try again in {retry_after} s")
        self.retry_after = retry_after


class RunFailed(Exception):
    """The model failed on a text, or altogether; the cause is logged."""


class Closing(Exception):
    """The server is shutting down and takes nothing more."""


class Ended(Exception):
    """Nothing can be run any more, as the message says: only a restart helps."""
