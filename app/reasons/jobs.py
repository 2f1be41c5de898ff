"""Long work of the Reasons tab, finding reasons and comparing two models by them: one job at a time, in a thread of its
own that no tab's closing ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grace_app.workspace.messages import message_of
from grace_app.workspace.state import Workspace
from grace_core.errors import GraceError

if TYPE_CHECKING:
    from grace_core.index import GraceIndex


@dataclass
class ReasonsJob:
    """Finding the reasons of one model of a collection, or comparing it with ``against``, another model or its text alone.

    ``state``: working, done, stopped or failed; ``stage``: sentences, grouping, reading or queries.
    """

    corpus: str
    model: str
    against: str = ""
    state: str = "working"
    stage: str = "sentences"
    done: int = 0
    total: int = 0
    message: str = ""
    started: float = field(default_factory=time.monotonic)
    stop: threading.Event = field(default_factory=threading.Event)
    _seconds: float | None = None

    def mark(self, stage: str, done: int, total: int) -> None:
        self.stage, self.done, self.total = stage, done, total

    def check(self) -> None:
        """Raises BuildStopped once the job is to stop."""
        from grace_core.build import BuildStopped

        if self.stop.is_set():
            raise BuildStopped

    def mark_or_stop(self, stage: str, done: int, total: int) -> None:
        """As :meth:`mark`, for work that asks for nothing else; raises BuildStopped."""
        self.mark(stage, done, total)
        self.check()

    def end(self, state: str, message: str = "") -> None:
        self._seconds = time.monotonic() - self.started
        self.message, self.state = message, state

    def as_dict(self) -> dict:
        seconds = self._seconds if self._seconds is not None else time.monotonic() - self.started
        left = seconds / self.done * (self.total - self.done) if self.stage == "sentences" and self.done else None
        return {
            "corpus": self.corpus,
            "model": self.model,
            "against": self.against,
            "state": self.state,
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "message": self.message,
            "stopping": self.stop.is_set(),
            "seconds": round(seconds, 1),
            "left": None if left is None else round(left),
        }


class ReasonsJobs:
    """The job that runs or ran last."""

    def __init__(self):
        self.job: ReasonsJob | None = None
        self._lock = threading.Lock()

    def start(
        self, work: Callable[[ReasonsJob], None], corpus: str, model: str, against: str = "", *, stopped: str
    ) -> ReasonsJob:
        """``work`` on a new job in a thread; ``stopped`` is what the page says if it was stopped.

        Raises GraceError if another job goes on.
        """
        with self._lock:
            if self.job and self.job.state == "working":
                if (self.job.corpus, self.job.model, self.job.against) == (corpus, model, against):
                    return self.job  # somebody else has asked for the same
                other = f"{self.job.model} over {self.job.corpus}"
                if self.job.against:
                    raise GraceError(f"{other} is being compared: wait for that, or stop it first")
                raise GraceError(f"the reasons of {other} are being found: wait for them, or stop them first")
            job = self.job = ReasonsJob(corpus, model, against)
        threading.Thread(target=_run, args=(job, work, stopped), daemon=True, name="reasons").start()
        return job


def _run(job: ReasonsJob, work: Callable[[ReasonsJob], None], stopped: str) -> None:
    from grace_core.build import BuildStopped

    try:
        work(job)
        job.end("done")
    except BuildStopped:
        job.end("stopped", stopped)
    except Exception as error:
        job.end("failed", message_of(error))


def find_reasons(workspace: Workspace, job: ReasonsJob) -> None:
    """The work of finding the reasons of a job's model; they are stored beside its index."""
    from grace_core.reasons.collection import make_reasons
    from grace_core.reasons.sentences import check_rationales, have_sentences

    index = workspace.index(job.corpus, job.model)
    check_rationales(index)
    model = None if have_sentences(index) else workspace.model_of(index)
    make_reasons(index, model, progress=job.mark, should_stop=job.stop.is_set)


def refusal_to_write(index: GraceIndex, what: str) -> str:
    """Why ``what`` cannot be kept beside an index; "" if it can."""
    from grace_core.files import check_writable

    try:
        check_writable(index.folder, what)
    except GraceError as error:
        return f"{error}."
    return ""
