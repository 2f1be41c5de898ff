"""Messages for people when something fails."""

from __future__ import annotations

import logging
import traceback

from grace_core.errors import GraceError

log = logging.getLogger("app")


def message_of(error: Exception) -> str:
    """The line to show for an error: a GraceError's own; for any other a plain one, with the traceback in the log."""
    if isinstance(error, GraceError):
        return str(error)
    log.error("unexpected error\n%s", "".join(traceback.format_exception(error)))
    return f"something went wrong ({type(error).__name__}); the server's log has the details"
