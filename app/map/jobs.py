"""Computing maps from the page: one job at a time, in a thread of its own that no tab's closing ends."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, field
from itertools import count

from grace_app.map.maps import Maps, name_in_collection, pooling_of
from grace_app.map.view import MapView, mapped_columns
from grace_app.workspace.messages import message_of
from grace_app.workspace.view import AnyColumn
from grace_core.errors import GraceError
from grace_core.pooling import Pooling

log = logging.getLogger("app")
_numbers = count(1)


@dataclass
class MapJob:
    """The maps of a collection's columns, made together so that they are aligned.

    ``state``: working, done, stopped or failed.
    """

    corpus: str
    columns: list[AnyColumn]
    number: int = field(default_factory=lambda: next(_numbers))
    state: str = "working"
    done: int = 0
    total: int = 0
    saved: bool = True
    message: str = ""
    started: float = field(default_factory=time.monotonic)
    stop: threading.Event = field(default_factory=threading.Event)
    _seconds: float | None = None

    def mark(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    def end(self, state: str, message: str = "") -> None:
        self._seconds = time.monotonic() - self.started
        self.message, self.state = message, state

    def as_dict(self) -> dict:
        return {
            "number": self.number,
            "corpus": self.corpus,
            "columns": [column.label for column in self.columns],
            "state": self.state,
            "done": self.done,
            "total": self.total,
            "saved": self.saved,
            "message": self.message,
            "stopping": self.stop.is_set(),
            "seconds": round(self._seconds if self._seconds is not None else time.monotonic() - self.started, 1),
        }


class MapJobs:
    """The job that runs or ran last."""

    def __init__(self, maps: Maps):
        self.maps = maps
        self.job: MapJob | None = None
        self._lock = threading.Lock()

    def start(self, view: MapView) -> MapJob:
        """Compute the maps of both columns, and of those that have one already: only maps made together are aligned.

        Raises GraceError if another collection's are being computed.
        """
        wanted = set(view.columns) | set(self.maps.mapped(view.corpus))
        columns = [column for column in mapped_columns(self.maps.workspace, view.corpus) if column in wanted]
        with self._lock:
            if self.job and self.job.state == "working":
                if self.job.corpus == view.corpus and set(view.columns) <= set(self.job.columns):
                    return self.job  # somebody else has asked for the same
                raise GraceError(
                    f"the maps of {self.job.corpus} are being computed: wait for them, or cancel them first"
                )
            job = self.job = MapJob(view.corpus, columns)
        threading.Thread(target=self._run, args=(job,), daemon=True, name="map").start()
        return job

    def _run(self, job: MapJob) -> None:
        from grace_core.projection import MapStopped, map_collection

        try:
            indexes = [self.maps.workspace.opened(job.corpus, column).index for column in job.columns]
            job.saved = all(os.access(index.folder, os.W_OK) for index in indexes)
            columns = [(name_in_collection(column), pooling_of(column) or Pooling.TEXT) for column in job.columns]
            maps = map_collection(
                indexes[0].collection, columns, save=job.saved, progress=job.mark, should_stop=job.stop.is_set
            )
            if not job.saved:
                for column, index, key in zip(job.columns, indexes, columns, strict=True):
                    self.maps.keep(job.corpus, column, index, maps[key])
            job.end(
                "done",
                ""
                if job.saved
                else "The collection’s folder is read-only, so these maps are kept until the explorer ends.",
            )
        except MapStopped:
            job.end("stopped", "Cancelled; nothing was written.")
        except Exception as error:
            job.end("failed", message_of(error))
