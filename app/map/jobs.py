"""Computing maps from the page."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import count

from grace_app.map.maps import Maps, name_in_collection, pooling_of
from grace_app.map.view import MapView, mapped_columns
from grace_app.workspace.jobs import Job, Jobs
from grace_app.workspace.view import AnyColumn
from grace_core.pooling import Pooling

_numbers = count(1)


@dataclass
class MapJob(Job):
    """The maps of a collection's ``columns``, made together so that they are aligned. The page asked for those of ``asked``."""

    corpus: str
    columns: list[AnyColumn]
    asked: tuple[AnyColumn, ...] = ()
    number: int = field(default_factory=lambda: next(_numbers))
    saved: bool = True

    @property
    def busy(self) -> str:
        return f"the maps of {self.corpus} are being computed: wait for them, or cancel them first"

    @property
    def stopped(self) -> str:
        return "Cancelled; nothing was written."

    def serves(self, wanted: MapJob) -> bool:
        return self.corpus == wanted.corpus and set(wanted.asked) <= set(self.columns)

    def as_dict(self) -> dict:
        labels = [column.label for column in self.columns]
        return super().as_dict() | {
            "number": self.number,
            "corpus": self.corpus,
            "columns": labels,
            "saved": self.saved,
        }


class MapJobs(Jobs[MapJob]):
    """The job that runs or ran last."""

    def __init__(self, maps: Maps):
        super().__init__()
        self.maps = maps

    def start(self, view: MapView) -> MapJob:
        """Compute the maps of both columns, and of those that have one already: only maps made together are aligned.

        Raises GraceError if another collection's are being computed.
        """
        wanted = set(view.columns) | set(self.maps.mapped(view.corpus))
        columns = [column for column in mapped_columns(self.maps.workspace, view.corpus) if column in wanted]
        return self.begin(MapJob(view.corpus, columns, tuple(view.columns)), self.compute)

    def compute(self, job: MapJob) -> str:
        """The work of a job; returns what the page is to say then."""
        from grace_core.projection import map_collection

        indexes = [self.maps.workspace.opened(job.corpus, column).index for column in job.columns]
        job.saved = all(os.access(index.folder, os.W_OK) for index in indexes)
        columns = [(name_in_collection(column), pooling_of(column) or Pooling.TEXT) for column in job.columns]
        maps = map_collection(
            indexes[0].collection, columns, save=job.saved, progress=job.mark, should_stop=job.stop.is_set
        )
        if job.saved:
            return ""
        for column, index, key in zip(job.columns, indexes, columns, strict=True):
            self.maps.keep(job.corpus, column, index, maps[key])
        return "The collection’s folder is read-only, so these maps are kept until the explorer ends."
