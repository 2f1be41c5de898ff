"""Long work that a page follows: how far it is, and one job at a time in a thread that no tab's closing ends."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from grace_app.workspace.messages import message_of
from grace_core.errors import GraceError, Stopped

ENDED = ("done", "stopped", "failed")


@dataclass(kw_only=True)
class Job:
    """Work of which ``done`` of ``total`` is done. ``state``: what it is at (working, or words of its own), then done,
    stopped or failed; ``marks`` are the last reports, as seconds and how much was done.
    """

    state: str = "working"
    done: int = 0
    total: int = 0
    message: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    marks: deque = field(default_factory=lambda: deque(maxlen=40))
    _started: float = field(default_factory=time.monotonic)
    _seconds: float | None = None

    @property
    def running(self) -> bool:
        return self.state not in ENDED

    @property
    def busy(self) -> str:
        """The refusal that a request for another job gets meanwhile."""
        raise NotImplementedError

    @property
    def stopped(self) -> str:
        """What is said once it was stopped."""
        raise NotImplementedError

    def serves(self, wanted: Job) -> bool:
        """Whether this running job also answers a request for ``wanted``."""
        return False

    def mark(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self.marks.append((time.monotonic(), done))

    def check(self) -> None:
        """Raises Stopped once the job is to stop."""
        if self.stop.is_set():
            raise Stopped

    def end(self, state: str, message: str = "") -> None:
        self._seconds = time.monotonic() - self._started
        self.message, self.state = message, state

    @property
    def rate(self) -> float | None:
        """The progress per second over the marks; None before there are two."""
        if len(self.marks) < 2:
            return None
        (begin, first), (end, last) = self.marks[0], self.marks[-1]
        return (last - first) / (end - begin) if end > begin and last > first else None

    @property
    def seconds_left(self) -> float | None:
        return (self.total - self.done) / self.rate if self.rate else None

    def as_dict(self) -> dict:
        seconds = self._seconds if self._seconds is not None else time.monotonic() - self._started
        return {
            "state": self.state,
            "done": self.done,
            "total": self.total,
            "message": self.message,
            "stopping": self.stop.is_set(),
            "seconds": round(seconds, 1),
            "left": None if self.seconds_left is None else round(self.seconds_left),
        }


J = TypeVar("J", bound=Job)


class Jobs(Generic[J]):
    """Runs one job at a time; ``job`` is the one that runs or ran last."""

    def __init__(self) -> None:
        self.job: J | None = None
        self._lock = threading.Lock()

    def begin(self, job: J, work: Callable[[J], str | None]) -> J:
        """``work`` in a thread of its own, unless a job runs that serves as well, which is returned.

        ``work`` returns what is to be said once it is done, and raises Stopped once :meth:`Job.check` does. Raises
        GraceError if another job runs.
        """
        with self._lock:
            if self.job and self.job.running:
                if self.job.serves(job):
                    return self.job
                raise GraceError(self.job.busy)
            self.job = job
        name = type(job).__name__
        threading.Thread(target=run, args=(job, work), daemon=True, name=name).start()
        return job

    def cancel(self) -> None:
        if self.job and self.job.running:
            self.job.stop.set()

    def progress(self) -> dict:
        """The job as the page's scripts read it: ``{"job": … or None}``."""
        return {"job": self.job.as_dict() if self.job else None}


def run(job: J, work: Callable[[J], str | None]) -> None:
    """Do the work of a job, which then is done, stopped or failed."""
    try:
        job.end("done", work(job) or "")
    except Stopped:
        job.end("stopped", job.stopped)
    except Exception as error:
        job.end("failed", message_of(error))
