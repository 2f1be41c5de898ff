"""Long work of the Reasons tab: finding reasons, and comparing two models by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grace_app.workspace.jobs import Job
from grace_app.workspace.state import Workspace
from grace_core.errors import GraceError

if TYPE_CHECKING:
    from grace_core.index import GraceIndex


@dataclass
class ReasonsJob(Job):
    """Finding the reasons of one model of a collection, or comparing it with ``against``, another model or its text alone.

    ``stage``: sentences, grouping, reading or queries.
    """

    corpus: str
    model: str
    against: str = ""
    stage: str = "sentences"

    @property
    def busy(self) -> str:
        other = f"{self.model} over {self.corpus}"
        if self.against:
            return f"{other} is being compared: wait for that, or stop it first"
        return f"the reasons of {other} are being found: wait for them, or stop them first"

    @property
    def stopped(self) -> str:
        if self.against:
            return "Stopped. Sentences that were read are kept: comparing again goes on from there."
        return "Stopped. What is finished is kept: finding them again goes on from there."

    def serves(self, wanted: ReasonsJob) -> bool:
        return (self.corpus, self.model, self.against) == (wanted.corpus, wanted.model, wanted.against)

    def mark_stage(self, stage: str, done: int, total: int) -> None:
        if stage != self.stage:
            self.stage = stage
            self.marks.clear()
        self.mark(done, total)

    def mark_or_stop(self, stage: str, done: int, total: int) -> None:
        """As :meth:`mark_stage`, for work that asks for nothing else; raises Stopped."""
        self.mark_stage(stage, done, total)
        self.check()

    def as_dict(self) -> dict:
        about = {"corpus": self.corpus, "model": self.model, "against": self.against, "stage": self.stage}
        return super().as_dict() | about


def find_reasons(workspace: Workspace, job: ReasonsJob) -> None:
    """The work of finding the reasons of a job's model; they are stored beside its index."""
    from grace_core.reasons.collection import make_reasons
    from grace_core.reasons.sentences import check_rationales, have_sentences

    index = workspace.index(job.corpus, job.model)
    check_rationales(index)
    model = None if have_sentences(index) else workspace.model_of(index)
    make_reasons(index, model, progress=job.mark_stage, should_stop=job.stop.is_set)


def refusal_to_write(index: GraceIndex, what: str) -> str:
    """Why ``what`` cannot be kept beside an index; "" if it can."""
    from grace_core.files import check_writable

    try:
        check_writable(index.folder, what)
    except GraceError as error:
        return f"{error}."
    return ""
