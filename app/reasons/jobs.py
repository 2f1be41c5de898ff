"""Finding reasons from the page: one job at a time, in a thread of its own that no tab's closing ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from grace_app.workspace.messages import message_of
from grace_app.workspace.state import Workspace
from grace_core.errors import GraceError


@dataclass
class ReasonsJob:
    """The reasons of one model of a collection. ``state``: working, done, stopped or failed."""

    corpus: str
    model: str
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

    def end(self, state: str, message: str = "") -> None:
        self._seconds = time.monotonic() - self.started
        self.message, self.state = message, state

    def as_dict(self) -> dict:
        seconds = self._seconds if self._seconds is not None else time.monotonic() - self.started
        left = seconds / self.done * (self.total - self.done) if self.stage == "sentences" and self.done else None
        return {
            "corpus": self.corpus,
            "model": self.model,
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
    """The job that runs or ran last. ``finished`` is called with each job that is done."""

    def __init__(self, workspace: Workspace, finished: Callable[[ReasonsJob], None]):
        self.workspace, self.finished = workspace, finished
        self.job: ReasonsJob | None = None
        self._lock = threading.Lock()

    def start(self, corpus: str, model: str) -> ReasonsJob:
        """Raises GraceError if another collection's or model's reasons are being found."""
        with self._lock:
            if self.job and self.job.state == "working":
                if (self.job.corpus, self.job.model) == (corpus, model):
                    return self.job  # somebody else has asked for the same
                other = f"{self.job.model} over {self.job.corpus}"
                raise GraceError(f"the reasons of {other} are being found: wait for them, or stop them first")
            job = self.job = ReasonsJob(corpus, model)
        threading.Thread(target=self._run, args=(job,), daemon=True, name="reasons").start()
        return job

    def _run(self, job: ReasonsJob) -> None:
        from grace_core.build import BuildStopped
        from grace_core.reasons.collection import make_reasons
        from grace_core.reasons.sentences import check_rationales, have_sentences

        try:
            index = self.workspace.index(job.corpus, job.model)
            check_rationales(index)
            model = None if have_sentences(index) else self.workspace.model_of(index)
            make_reasons(index, model, progress=job.mark, should_stop=job.stop.is_set)
            self.finished(job)
            job.end("done")
        except BuildStopped:
            job.end("stopped", "Stopped. What is finished is kept: finding them again goes on from there.")
        except Exception as error:
            job.end("failed", message_of(error))
