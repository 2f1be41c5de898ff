"""One model in memory for several threads: searches of several people and a build at the same time.

A model runs one forward at a time, a decoding step for each thread in the order of their requests. So a search
during a build is slowed down by the build's steps, but never waits for a whole batch; with a plain lock the build
could take every turn.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import contextmanager

from cachetools import LRUCache

from grace_core.cache import RepresentationCache
from grace_core.engines.transformers import TransformersEngine
from grace_core.errors import GraceError
from grace_core.model import GraceModel

log = logging.getLogger("app")


class FairLock:
    """A lock that waiting threads get in the order of their requests."""

    def __init__(self):
        self._changed = threading.Condition()
        self._next = self._serving = 0

    def __enter__(self) -> None:
        with self._changed:
            ticket = self._next
            self._next += 1
            while ticket != self._serving:
                self._changed.wait()

    def __exit__(self, *_) -> None:
        with self._changed:
            self._serving += 1
            self._changed.notify_all()


class SharedEngine(TransformersEngine):
    """An engine that several threads may use; each can be interrupted between two decoding steps."""

    def __init__(self, engine: TransformersEngine):
        super().__init__(engine.model, pad_id=engine.pad_id, end_ids=engine.end_ids)
        self._fair_lock = FairLock()
        self._thread = threading.local()

    @contextmanager
    def interrupted_by(self, check: Callable[[], None]):
        """Calls ``check`` before every step of this thread within the block; it may raise to end the run."""
        self._thread.check = check
        try:
            yield
        finally:
            del self._thread.check

    def pool(self, prompts, forced=None):
        with self._fair_lock:
            return super().pool(prompts, forced)

    def states(self, prompts, forced):
        with self._fair_lock:
            return super().states(prompts, forced)

    def decode(self, prompts, decoding, seeds=None, *, width=None, stream=False):
        steps = super().decode(prompts, decoding, seeds, width=width, stream=stream)
        while True:
            if check := getattr(self._thread, "check", None):
                check()
            with self._fair_lock:
                step = next(steps, None)
            if step is None:
                return
            yield step


def share(model: GraceModel) -> GraceModel:
    """``model``, made safe for several threads."""
    model.engine = SharedEngine(model.engine)
    return model


class QueryCache:
    """The newest representations in memory, in front of the cache on disk, which is given up if it fails."""

    def __init__(self, disk: RepresentationCache | None, *, size: int = 1000):
        self.disk = disk
        self._rows: LRUCache = LRUCache(size)
        self._texts: LRUCache = LRUCache(size)  # name to (key, whether the text was cut)
        self._lock = threading.Lock()

    def get(self, keys: list[str]) -> dict:
        with self._lock:
            rows = {key: self._rows[key] for key in keys if key in self._rows}
        missing = [key for key in keys if key not in rows]
        return rows | (self._on_disk("get", missing) if missing else {})

    def get_texts(self, names: list[str]) -> dict:
        with self._lock:
            named = {name: self._texts[name] for name in names if name in self._texts}
            rows = {name: (self._rows[key], cut) for name, (key, cut) in named.items() if key in self._rows}
        missing = [name for name in names if name not in rows]
        return rows | (self._on_disk("get_texts", missing) if missing else {})

    def put(self, rows: dict) -> None:
        self._keep(self._rows, rows)
        self._on_disk("put", rows)

    def name_texts(self, names: dict) -> None:
        self._keep(self._texts, names)
        self._on_disk("name_texts", names)

    def _keep(self, where: LRUCache, new: dict) -> None:
        with self._lock:
            where.update(new)

    def _on_disk(self, method: str, values) -> dict:
        """The result of the cache on disk; empty once it has failed."""
        if self.disk is not None:
            try:
                return getattr(self.disk, method)(values) or {}
            except GraceError as error:
                log.warning("the cache %s cannot be used any more (%s); going on without it", self.disk.path, error)
                self.disk = None
        return {}
