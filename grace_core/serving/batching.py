"""One thread owns the model: texts of all requests join those that are being decoded, a step at a time, and
leave when they end.

Who joins. The queue gives one text of every waiting request in turn, and a request that was served goes to its
end, so that a large request does not keep small ones waiting. Where nothing is being decoded, the first texts
wait until all slots are filled, until nothing has arrived for a tenth of ``max_wait``, or for ``max_wait``;
later ones join as soon as one slot in JOIN_SHARE is free and wanted, or after the same time. A text is
answered when it ends, whatever it runs with. (When texts ran in whole batches, clients got their answers and
asked again all at once, and while HTTP was at work the model was not.)

What runs side by side. Up to CHAT_RUNS groups of chats take turns with the texts. Texts without rationale
need a single forward and go in between. An engine that schedules by itself gets whatever there is at once, in
batches of its own, and each chat by itself.

A text's result does not depend on what it ran with: padding is masked and sampling noise belongs to the text
(see the engine). Where a step fails, the texts in it are run again in halves, as batches of their own, until
the text at fault is alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TypeVar

from grace_core.engines.base import JOIN_SHARE, Batch, Decoding, Step
from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.pooling import Representation
from grace_core.prompt import Prompt
from grace_core.serving.failures import Closing, Ended, QueueFull, RunFailed
from grace_core.serving.limits import Limits
from grace_core.serving.metrics import Metrics

log = logging.getLogger("grace.serve")
T = TypeVar("T")
CHAT_RUNS = 4
SCHEDULED_RUNS = 32  # of either kind, where the engine divides its steps among them
FAILURES = 3  # so many runs that failed one after the other are the model's fault and not a text's
STALLED = 300.0  # seconds without the end of a step


@dataclass(eq=False)
class _Job:
    """The texts of one request; ``order`` are the positions that are still to be run, longest text first."""

    prompts: Sequence[Prompt]
    keys: list[str]
    rationale: bool
    rows: dict[int, Representation]
    order: deque[int]
    left: int
    future: Future = field(default_factory=Future)


_Entry = tuple[_Job, int]  # a position of a job


@dataclass(eq=False)
class Chat:
    """One answer in the making.

    ``emit`` is called from the worker with every token id, at last with "stop", "length" or an Exception.
    """

    prompt: Prompt
    decoding: Decoding
    emit: Callable[[int | str | Exception], None]
    cancelled: bool = False


@dataclass(eq=False)
class _TextRun:
    """Texts that are decoded together: by their keys who asked for each, and since when it runs."""

    batch: Batch
    retry: bool = False  # after a failure; nothing joins it
    entries: dict[str, list[_Entry]] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class _ChatRun:
    """Chats that are decoded together and have not ended."""

    batch: Batch
    chats: set[Chat]


class Batcher:
    """Runs ``model`` for many callers. :meth:`embed` and :meth:`chat` may be called from any thread."""

    def __init__(self, model: GraceModel, limits: Limits, metrics: Metrics):
        self.model, self.limits, self.metrics = model, limits, metrics
        self._changed = threading.Condition()
        self._jobs: list[_Job] = []
        self._chats: deque[Chat] = deque()
        self._again: deque[dict[str, list[_Entry]]] = deque()  # halves of batches that failed
        self._runs: list[_TextRun | _ChatRun] = []
        self._first = self._last = 0.0  # when gathering began, and when the newest text arrived
        self._pace = 0.0  # seconds a text, a moving average
        self._closing = self._failed = False  # as asked for; by an error of the thread's own
        self._failures = 0
        self._step_began: float | None = None
        own = model.engine.schedules
        self._text_runs, self._chat_runs = (SCHEDULED_RUNS, SCHEDULED_RUNS) if own else (1, CHAT_RUNS)
        self._size = max(limits.max_batch, model.engine.preferred_batch)
        self._tokens = float("inf") if own else limits.max_batch_tokens
        self._cache_warned = -1e9
        metrics.queued.set_function(self.waiting)
        self._thread = threading.Thread(target=self._work, name="grace-model", daemon=True)
        self._thread.start()

    # --- for callers
    # ----------------------------------------------------------------------------------------------------------

    def embed(self, prompts: Sequence[Prompt], *, rationale: bool) -> Future[list[Representation]]:
        """A future of the prompts' rows; what is in the cache is not run. Cancel it when nobody wants it any more.

        Raises QueueFull, Closing, or Ended.
        """
        keys = [self.model._key(prompt, self.model.settings, rationale) for prompt in prompts]
        cached = self._cached(keys)
        rows = {i: cached[key] for i, key in enumerate(keys) if key in cached}
        order = sorted((i for i in range(len(keys)) if i not in rows), key=lambda i: -len(prompts[i].ids))
        job = _Job(prompts, keys, rationale, rows, deque(order), len(order))
        self.metrics.cached.labels("hit").inc(len(rows))
        self.metrics.cached.labels("miss").inc(len(order))
        if not order:
            _answer(job)
            return job.future
        with self._changed:
            self._admit(len(order))
            self._last = time.monotonic()
            if not any(job.order for job in self._jobs):
                self._first = self._last
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def chat(self, chat: Chat) -> None:
        """Let the model answer. Raises QueueFull, Closing, or Ended."""
        with self._changed:
            self._admit(1)
            self._chats.append(chat)
            self._changed.notify()

    def waiting(self) -> int:
        """The number of texts and chats that have not been submitted."""
        return sum(len(job.order) for job in tuple(self._jobs)) + len(self._chats)

    def _admit(self, count: int) -> None:
        """Refuse what does not fit; an empty queue takes any request, since waiting would not make more room."""
        if self._closing:
            raise Closing
        if ended := self.ended():
            raise Ended(ended)
        waiting = self.waiting()
        if waiting and waiting + count > self.limits.max_queue:
            raise QueueFull(waiting, int(min(60, max(1, self._pace * waiting / 2))))

    def ended(self) -> str | None:
        """Why nothing can be run any more, in one line; None if that is not so."""
        if self._failed or not self._thread.is_alive():
            return "the model's thread has ended; restart the server"
        if not self.model.engine.alive:
            return f"{self.model.engine.title} has died; see the log, and restart the server"
        return None

    def failure_reason(self) -> str | None:
        """What is wrong, in one line; None if all is well."""
        if ended := self.ended():
            return ended
        if self._failures >= FAILURES:
            return f"the last {self._failures} runs of the model failed; see the log, and restart the server"
        began = self._step_began
        if began is not None and time.monotonic() - began > STALLED:
            return f"the model has been busy with one step for {time.monotonic() - began:.0f} s; restart the server"
        return None

    def close(self) -> None:
        """Take nothing more, finish what is wanted, end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self.model.engine.close()

    # --- the worker
    # -----------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._wait_for_work():
            try:
                self._begin_runs()
                for run in tuple(self._runs):
                    self._advance(run)
            except Exception:  # of the scheduler itself: nothing that waits would ever be answered
                log.exception("the model's thread failed")
                self._fail_all()
                raise

    def _wait_for_work(self) -> bool:
        """Sleep until there is a step to do. False when closing, and all is done."""
        with self._changed:
            while not (self._runs or self._again or self._chats):
                self._drop_done()
                if self._jobs:
                    left = min(self._unripe(kind) for kind in (True, False))
                    if left <= 0:
                        return True
                    self._changed.wait(left)
                elif self._closing:
                    return False
                else:
                    self._changed.wait()
        return True

    def _drop_done(self) -> None:
        self._jobs = [job for job in self._jobs if job.order and not job.future.done()]  # cancelled, or failed already

    def _unripe(self, rationale: bool, running: int = 0) -> float:
        """Seconds that the waiting texts of a kind should still wait for others before they join so many;
        infinite if there are none.
        """
        waiting = sum(len(job.order) for job in self._jobs if job.rationale is rationale)
        if not waiting:
            return float("inf")
        enough = self._size
        if running:
            enough = max(1, min(self._size - running, self._size // JOIN_SHARE))
        if self._closing or waiting >= enough:
            return 0.0
        return min(self._last + self.limits.max_wait / 10, self._first + self.limits.max_wait) - time.monotonic()

    def _begin_runs(self) -> None:
        """Hand waiting texts and chats to the engine."""
        text_runs = [run for run in self._runs if isinstance(run, _TextRun)]
        free = len(text_runs) < self._text_runs
        run, rationales, texts, chats = None, {}, {}, []
        with self._changed:
            self._drop_done()
            if self._unripe(False) <= 0:
                texts = self._gather({}, rationale=False)
            if free:
                run = _TextRun(self.model.engine.start(self.model.settings.decoding), retry=bool(self._again))
            elif not self._again:
                run = next((run for run in text_runs if run.batch.open and not run.retry), None)
            if run and run.retry:
                rationales = self._again.popleft()
            elif run and self._unripe(True, len(run.entries)) <= 0:
                rationales = self._gather(run.entries, rationale=True)
            if sum(isinstance(run, _ChatRun) for run in self._runs) < self._chat_runs:
                chats = self._gather_chats()
        if rationales:
            self._submit_texts(run, rationales)
        if texts:
            self._pool(texts)
        if chats:
            self._submit_chats(chats)

    def _submit_texts(self, run: _TextRun, entries: dict[str, list[_Entry]]) -> None:
        prompts = [job.prompts[i] for job, i in (same[0] for same in entries.values())]
        self.metrics.batch.labels("rationale").observe(len(prompts))
        if run not in self._runs:
            self._runs.append(run)
        run.entries |= entries
        run.began |= dict.fromkeys(entries, time.monotonic())
        _, error = self._attempt(lambda: run.batch.submit(list(entries), prompts))
        if error:
            self._fail(run, error)

    def _submit_chats(self, chats: list[Chat]) -> None:
        self.metrics.batch.labels("chat").observe(len(chats))
        run = _ChatRun(self.model.engine.start(chats[0].decoding, stream=True), set(chats))
        self._runs.append(run)
        prompts, seeds = [chat.prompt for chat in chats], [chat.decoding.seed for chat in chats]
        _, error = self._attempt(lambda: run.batch.submit(chats, prompts, seeds))
        if error:
            self._fail(run, error)

    def _pool(self, entries: dict[str, list[_Entry]]) -> None:
        """Answer texts without rationale, by a single forward; again in halves if that fails."""
        prompts, began = [job.prompts[i] for job, i in (same[0] for same in entries.values())], time.monotonic()
        self.metrics.batch.labels("text").observe(len(prompts))
        rows, error = self._attempt(lambda: self.model.engine.pool(prompts))
        if error:
            for half in self._halves(entries, error):
                self._pool(half)
        else:
            self._set_pace((time.monotonic() - began) / len(prompts))
            self._land(dict(zip(entries, rows, strict=True)), entries)

    def _gather(self, running: dict[str, list[_Entry]], *, rationale: bool) -> dict[str, list[_Entry]]:
        """What joins ``running``: a text of every request in turn, each different text once, as far as there is
        room.
        """
        entries: dict[str, list[_Entry]] = {}
        room = self.model.settings.max_new_tokens if rationale else 0
        longest = max((len(job.prompts[i].ids) + room for job, i in (same[0] for same in running.values())), default=0)
        turns = deque(job for job in self._jobs if job.rationale is rationale)
        while turns:
            job = turns[0]
            i = job.order[0]
            key = job.keys[i]
            if key not in entries and key not in running:
                longest = max(longest, len(job.prompts[i].ids) + room)
                together = len(running) + len(entries)
                if together and (together >= self._size or (together + 1) * longest > self._tokens):
                    break
            (running if key in running else entries).setdefault(key, []).append((job, job.order.popleft()))
            turns.popleft()
            if job.order:
                turns.append(job)
        self._jobs = [job for job in self._jobs if job.rationale is not rationale] + list(turns)
        return entries

    def _gather_chats(self) -> list[Chat]:
        """The oldest waiting chat, and others that are decoded in the same way but for the seed."""
        taken: list[Chat] = []
        longest, rest = 0, deque()
        for chat in self._chats:
            if chat.cancelled:
                continue
            longest = max(longest, len(chat.prompt.ids) + chat.decoding.max_new_tokens)
            fits = len(taken) < self.limits.max_batch and (len(taken) + 1) * longest <= self._tokens
            if not taken or (fits and not self.model.engine.schedules and _alike(chat.decoding, taken[0].decoding)):
                taken.append(chat)
            else:
                rest.append(chat)
        self._chats = rest
        return taken

    def _attempt(self, call: Callable[[], T]) -> tuple[T | None, Exception | None]:
        """What a call of the engine returns, and the error that it raises."""
        self._step_began = time.monotonic()
        try:
            return call(), None
        except Exception as error:
            if self.ended():  # every run says the same, with the same traceback
                log.error("a run of the model failed: %s", error)
            else:
                log.exception("a run of the model failed")
            return None, error
        finally:
            self._step_began = None

    def _advance(self, run: _TextRun | _ChatRun) -> None:
        """One step of a run without those that nobody wants any more, and what follows from it."""
        if isinstance(run, _ChatRun):
            unwanted = [chat for chat in run.chats if chat.cancelled]
            run.chats.difference_update(unwanted)
        else:
            unwanted = [key for key, same in run.entries.items() if all(job.future.done() for job, _ in same)]
            for key in unwanted:
                del run.entries[key], run.began[key]
        if unwanted:
            run.batch.cancel(unwanted)
        if len(run.batch):
            if isinstance(run, _TextRun):
                self.metrics.step.observe(len(run.entries))
            step, error = self._attempt(run.batch.step)
            if error:
                self._fail(run, error)
                return
            if isinstance(run, _ChatRun):
                self._emit(run, step)
            elif step.finished:
                self._finish(run, dict(step.finished))
        if not len(run.batch):
            self._runs.remove(run)

    def _emit(self, run: _ChatRun, step: Step) -> None:
        for chat, token in step.tokens:
            chat.emit(token)
        for chat, row in step.finished:
            self._failures = 0
            run.chats.remove(chat)
            chat.emit("length" if row.truncated else "stop")

    def _finish(self, run: _TextRun, rows: dict[str, Representation]) -> None:
        now = time.monotonic()
        self._set_pace(sum(now - run.began.pop(key) for key in rows) / len(rows) / len(run.entries))
        self._land(rows, {key: run.entries.pop(key) for key in rows})

    def _set_pace(self, seconds: float) -> None:
        self._pace = 0.8 * self._pace + 0.2 * seconds if self._pace else seconds

    def _land(self, rows: dict[str, Representation], entries: dict[str, list[_Entry]]) -> None:
        """Give rows to all who asked for them."""
        self._failures = 0
        self._store(rows)
        for key, same in entries.items():
            for job, i in same:
                job.rows[i] = rows[key]
                job.left -= 1
                if not job.left:
                    _answer(job)

    def _fail(self, run: _TextRun | _ChatRun, error: Exception) -> None:
        """End a run that failed: its chats, or its text, fail; several texts are tried again in halves."""
        self._runs.remove(run)
        self._attempt(run.batch.cancel)
        if isinstance(run, _TextRun):
            self._again += self._halves(run.entries, error)
            return
        self._failures += 1
        for chat in run.chats:
            chat.emit(self._failure(error))

    def _halves(self, entries: dict[str, list[_Entry]], error: Exception) -> list[dict[str, list[_Entry]]]:
        """Halves of texts that failed together, to be tried again; none where it was a single one, which fails."""
        keys = list(entries)
        if len(keys) > 1 and not self.ended():
            halves = keys[: len(keys) // 2], keys[len(keys) // 2 :]
            return [{key: entries[key] for key in half} for half in halves]
        self._failures += 1
        for job, _ in (entry for same in entries.values() for entry in same):
            _answer(job, self._failure(error))
        return []

    def _failure(self, error: Exception) -> Exception:
        ended = self.ended()
        failure = Ended(ended) if ended else RunFailed(f"{type(error).__name__}: {error}")
        failure.__cause__ = error
        return failure

    def _fail_all(self) -> None:
        with self._changed:
            self._failed = True
            error = Ended(self.ended())
            runs = [run.entries for run in self._runs if isinstance(run, _TextRun)]
            jobs = {job for entries in (*runs, *self._again) for same in entries.values() for job, _ in same} | set(
                self._jobs
            )
            chats = [chat for run in self._runs if isinstance(run, _ChatRun) for chat in run.chats]
            chats += self._chats
        for job in jobs:
            _answer(job, error)
        for chat in chats:
            chat.emit(error)

    # --- the cache: the server goes on without a broken one
    # -------------------------------------------------------------------------------

    def _cached(self, keys: list[str]) -> dict[str, Representation]:
        try:
            return self.model.cache.get(keys) if self.model.cache is not None else {}
        except GraceError as error:
            self._warn(error)
            return {}

    def _store(self, rows: dict[str, Representation]) -> None:
        try:
            if self.model.cache is not None:
                self.model.cache.put(rows)
        except GraceError as error:
            self._warn(error)

    def _warn(self, error: GraceError) -> None:
        if time.monotonic() - self._cache_warned > 60:
            self._cache_warned = time.monotonic()
            log.warning("%s; going on without it", error)


def _alike(a: Decoding, b: Decoding) -> bool:
    return (a.max_new_tokens, a.temperature, a.top_p) == (b.max_new_tokens, b.temperature, b.top_p)


def _answer(job: _Job, error: Exception | None = None) -> None:
    try:
        if error is None:
            job.future.set_result([job.rows[i] for i in range(len(job.prompts))])
        else:
            job.future.set_exception(error)
    except InvalidStateError:  # cancelled, or failed by another of its texts
        pass
