"""The rate of a job, and its time left."""

from __future__ import annotations

from collections import deque


class Paced:
    """A job with ``done`` of ``total``; ``marks`` are the last reports, as seconds and how much was done."""

    done: int
    total: int
    marks: deque

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
