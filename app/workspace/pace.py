"""How fast a job goes, and how long it will take."""

from __future__ import annotations

from collections import deque


class Paced:
    """A job with ``done`` of ``total``, and ``marks`` of the last reports: the second, and how much was done then."""

    done: int
    total: int
    marks: deque

    @property
    def rate(self) -> float | None:
        """How much is done in a second, over the marks; None until there is something to measure."""
        if len(self.marks) < 2:
            return None
        (begin, first), (end, last) = self.marks[0], self.marks[-1]
        return (last - first) / (end - begin) if end > begin and last > first else None

    @property
    def seconds_left(self) -> float | None:
        return (self.total - self.done) / self.rate if self.rate else None
