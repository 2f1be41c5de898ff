"""One thread owns the model: it lets texts of all requests join those that are being decoded, a step at a
time, and leave when they end.

Who joins. One text of every waiting request in turn, and whom it served goes to the end of the queue, so that
a large request does not keep small ones waiting. Where nothing is being decoded, the first ones wait until
all places are filled, until nothing has arrived for a tenth of ``max_wait``, or for ``max_wait``; later ones
join as soon as one place in JOIN_SHARE is free and wanted, or after the same time. A text is answered when it
ends, whatever it runs with. (When texts ran in whole batches, clients got their answers and asked again all
at once, and while HTTP was at work the model was not.)

What runs side by side. Up to CHAT_RUNS groups of chats take turns with the texts. Texts without rationale
need a single forward and go in between. vLLM does all this by itself: it gets whatever there is at once, each
chat by itself.

A text's result does not depend on what it ran with: padding is masked and sampling noise belongs to the text
(see the engine). Where a step fails, the texts in it are run again in halves, as batches of their own, until
the text at fault is alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from grace_core.cache import Row
from grace_core.engines.inflight import Decoding, InFlight
from grace_core.engines.transformers import JOIN_SHARE
from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.prompt import Prompt
from grace_core.serving.failures import Closing, Ended, QueueFull, RunFailed
from grace_core.serving.limits import Limits
from grace_core.serving.metrics import Metrics

log = logging.getLogger("grace.serve")
CHAT_RUNS = 4
VLLM_RUNS = 32  # of either kind, where vLLM shares its steps among them
FAILURES = 3  # so many runs that failed one after the other are the model's fault and not a text's
STALLED = 300.0  # seconds without the end of a step


@dataclass(eq=False)
class _Job:
    """The texts of one request; ``order`` are the positions that are still to be run, longest text first."""

    prompts: Sequence[Prompt]
    keys: list[str]
    rationale: bool
    rows: dict[int, Row]
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
class _Embedding:
    """Texts that are being decoded together: one entry for each, and who else asked for the same text."""

    steps: Generator
    entries: dict[str, list[_Entry]]
    began: float = field(default_factory=time.monotonic)

    @property
    def wanted(self) -> bool:
        return any(not job.future.done() for same in self.entries.values() for job, _ in same)


@dataclass(eq=False)
class _Flow:
    """Texts that are being decoded and may join and leave at any step: who asked for each, and since when it runs."""

    rows: InFlight
    entries: dict[str, list[_Entry]] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class _ChatBatch:
    """Chats that are being decoded together; ``running`` holds the rows that have not ended."""

    steps: Generator
    chats: list[Chat]
    running: set[int]

    @property
    def wanted(self) -> bool:
        return any(not self.chats[row].cancelled for row in self.running)


class Batcher:
    """Runs ``model`` for many callers. :meth:`embed` and :meth:`chat` may be called from any thread."""

    def __init__(self, model: GraceModel, limits: Limits, metrics: Metrics):
        self.model, self.limits, self.metrics = model, limits, metrics
        self._changed = threading.Condition()
        self._jobs: list[_Job] = []
        self._chats: deque[Chat] = deque()
        self._again: deque[dict[str, list[_Entry]]] = deque()  # halves of batches that failed
        self._runs: list[_Embedding | _ChatBatch] = []
        self._first = self._last = 0.0  # when gathering began, and when the newest text arrived
        self._pace = 0.0  # seconds a text, a moving average
        self._closing = self._failed = False  # as asked for; by an error of the thread's own
        self._failures = 0
        self._step_began: float | None = None
        self._vllm = model.engine_name == "vllm"
        self._size = max(limits.max_batch, model.engine.batch) if self._vllm else limits.max_batch
        self._flow = None if self._vllm else _Flow(InFlight(model.engine, model.settings.decoding))
        self._tokens = float("inf") if self._vllm else limits.max_batch_tokens
        self._cache_warned = -1e9
        metrics.queued.set_function(self.waiting)
        self._thread = threading.Thread(target=self._work, name="grace-model", daemon=True)
        self._thread.start()

    # --- for callers
    # ----------------------------------------------------------------------------------------------------------

    def embed(self, prompts: Sequence[Prompt], *, rationale: bool) -> Future[list[Row]]:
        """A future of the prompts' rows; what is in the cache is not run. Cancel it when nobody wants it any more.

        Raises QueueFull, Closing, or Ended.
        """
        keys = [self.model._key(prompt, self.model.settings, rationale) for prompt in prompts]
        found = self._cached(keys)
        rows = {i: found[key] for i, key in enumerate(keys) if key in found}
        order = sorted((i for i in range(len(keys)) if i not in rows), key=lambda i: -len(prompts[i].ids))
        job = _Job(prompts, keys, rationale, rows, deque(order), len(order))
        self.metrics.cached.labels("hit").inc(len(rows))
        self.metrics.cached.labels("miss").inc(len(order))
        if not order:
            _settle(job)
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
        """Texts and chats that no run has begun with."""
        return sum(len(job.order) for job in tuple(self._jobs)) + len(self._chats)

    def _admit(self, count: int) -> None:
        """Refuse what does not fit; an empty queue takes any request, since there is none that would fit
        better later.
        """
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
        if not getattr(self.model.engine, "alive", True):
            return "vLLM has died; see the log, and restart the server"
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
        if self._vllm:
            self.model.engine.close()

    # --- the worker
    # -----------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._wait_for_work():
            try:
                for run in self._new_runs():
                    self._runs.append(run)
                if self._flow and self._flow.entries:
                    self._flow_on()
                for run in tuple(self._runs):
                    self._advance(run)
            except Exception:  # of the scheduler itself: nothing that waits would ever be answered
                log.exception("the model's thread failed")
                self._fail_all()
                raise

    def _wait_for_work(self) -> bool:
        """Sleep until there is a step to do. False when closing, and all is done."""
        with self._changed:
            while not (self._runs or self._again or self._chats or (self._flow and self._flow.entries)):
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

    def _unripe(self, rationale: bool) -> float:
        """Seconds that the waiting texts of a kind should still wait for others; infinite if there are none."""
        waiting = sum(len(job.order) for job in self._jobs if job.rationale is rationale)
        if not waiting:
            return float("inf")
        enough = self._size
        if rationale and self._flow and (running := len(self._flow.entries)):
            enough = max(1, min(self._size - running, self._size // JOIN_SHARE))
        if self._closing or waiting >= enough:
            return 0.0
        return min(self._last + self.limits.max_wait / 10, self._first + self.limits.max_wait) - time.monotonic()

    def _new_runs(self) -> Iterator[_Embedding | _ChatBatch]:
        decoding = sum(isinstance(run, _Embedding) for run in self._runs) >= (VLLM_RUNS if self._vllm else 1)
        joining: dict[str, list[_Entry]] = {}
        with self._changed:
            self._drop_done()
            texts = self._gather(rationale=False) if self._unripe(False) <= 0 else {}
            rationales: dict[str, list[_Entry]] = {}
            if self._again and not decoding:
                rationales = self._again.popleft()
            elif self._flow and not self._again and self._flow.rows.open and self._unripe(True) <= 0:
                joining = self._gather(rationale=True)
            elif self._vllm and not decoding and self._unripe(True) <= 0:
                rationales = self._gather(rationale=True)
            talks = sum(isinstance(run, _ChatBatch) for run in self._runs)
            chats = self._gather_chats() if talks < (VLLM_RUNS if self._vllm else CHAT_RUNS) else []
        if joining:
            self._join(joining)
        if texts:
            yield self._begin(texts)
        if rationales:
            yield self._begin(rationales)
        if chats:
            self.metrics.batch.labels("chat").observe(len(chats))
            steps = self._steps(
                [chat.prompt for chat in chats], chats[0].decoding, [chat.decoding.seed for chat in chats]
            )
            yield _ChatBatch(steps, chats, set(range(len(chats))))

    def _begin(self, entries: dict[str, list[_Entry]]) -> _Embedding:
        prompts = [job.prompts[i] for job, i in (same[0] for same in entries.values())]
        rationale = next(iter(entries.values()))[0][0].rationale
        self.metrics.batch.labels("rationale" if rationale else "text").observe(len(prompts))
        return _Embedding(
            self._steps(prompts, self.model.settings.decoding) if rationale else self._pool(prompts), entries
        )

    def _join(self, entries: dict[str, list[_Entry]]) -> None:
        flow, prompts = self._flow, [job.prompts[i] for job, i in (same[0] for same in entries.values())]
        self.metrics.batch.labels("rationale").observe(len(prompts))
        flow.entries |= entries
        flow.began |= dict.fromkeys(entries, time.monotonic())
        self._try(lambda: flow.rows.join(list(entries), prompts))

    def _flow_on(self) -> None:
        """One step of the texts in flight, without those that nobody wants any more."""
        flow = self._flow
        for key in [key for key, same in flow.entries.items() if all(job.future.done() for job, _ in same)]:
            flow.rows.leave(key)
            del flow.entries[key], flow.began[key]
        if flow.entries:
            self.metrics.step.observe(len(flow.entries))
            self._try(flow.rows.step)

    def _try(self, step: Callable[[], tuple]) -> None:
        """A step of the flow: gives the texts that ended to those who asked for them, or all of them a second
        try if it fails.
        """
        flow, self._step_began = self._flow, time.monotonic()
        try:
            _, ended = step()
        except Exception as error:
            log.exception("a step of the model failed")
            self._flow = _Flow(InFlight(self.model.engine, self.model.settings.decoding))
            self._broken(_Embedding(iter(()), flow.entries), error)
            return
        finally:
            self._step_began = None
        self._failures = 0
        if ended:
            now = time.monotonic()
            self._set_pace(sum(now - flow.began.pop(key) for key, _ in ended) / len(ended) / len(flow.entries))
            self._land({key: written.row for key, written in ended}, {key: flow.entries.pop(key) for key, _ in ended})

    def _steps(self, prompts: list[Prompt], decoding: Decoding, seeds: list[int] | None = None) -> Generator:
        return self.model.engine.steps(prompts, decoding, seeds)

    def _pool(self, prompts: list[Prompt]) -> Generator:
        """A run of a single step."""
        return self.model.engine.pool(prompts)
        yield

    def _gather(self, *, rationale: bool) -> dict[str, list[_Entry]]:
        """What is run next: a text of every request in turn, each different text once, as far as there is place."""
        entries: dict[str, list[_Entry]] = {}
        running = self._flow.entries if rationale and self._flow else {}
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
            fits = len(taken) < self.limits.max_batch and (len(taken) + 1) * longest <= self._tokens and not self._vllm
            if not taken or (fits and _alike(chat.decoding, taken[0].decoding)):
                taken.append(chat)
            else:
                rest.append(chat)
        self._chats = rest
        return taken

    def _advance(self, run: _Embedding | _ChatBatch) -> None:
        """One step of a run, and what follows from it."""
        if not run.wanted:
            self._end(run)
            return
        self._step_began = time.monotonic()
        try:
            new = next(run.steps)
            if isinstance(run, _ChatBatch):
                self._say(run, new)
        except StopIteration as stop:
            self._failures = 0
            self._finish(run, stop.value)
            self._end(run)
        except Exception as error:
            if self.ended():  # every run says the same, with the same traceback
                log.error("a run of the model failed: %s", error)
            else:
                log.exception("a run of the model failed")
            self._end(run)
            self._broken(run, error)
        finally:
            self._step_began = None

    def _end(self, run: _Embedding | _ChatBatch) -> None:
        self._runs.remove(run)
        run.steps.close()

    def _say(self, run: _ChatBatch, new: list[tuple[int, int]]) -> None:
        for row, token in new:
            run.chats[row].emit(token)
        if self._vllm:  # a row that has no token this time may have one next time
            return
        speaking = {row for row, _ in new}
        for row in run.running - speaking:
            run.chats[row].emit("stop")
        run.running &= speaking

    def _finish(self, run: _Embedding | _ChatBatch, pooled) -> None:
        if isinstance(run, _ChatBatch):
            for row in run.running:
                run.chats[row].emit("length" if pooled.truncated[row] else "stop")
            return
        self._set_pace((time.monotonic() - run.began) / len(run.entries))
        rows = zip(pooled.rationale_ids, pooled.sums.numpy(), pooled.counts.numpy(), pooled.truncated, strict=True)
        self._land(dict(zip(run.entries, rows, strict=True)), run.entries)

    def _set_pace(self, seconds: float) -> None:
        self._pace = 0.8 * self._pace + 0.2 * seconds if self._pace else seconds

    def _land(self, rows: dict[str, Row], entries: dict[str, list[_Entry]]) -> None:
        """Give rows to all who asked for them."""
        self._store(rows)
        for key, same in entries.items():
            for job, i in same:
                job.rows[i] = rows[key]
                job.left -= 1
                if not job.left:
                    _settle(job)

    def _broken(self, run: _Embedding | _ChatBatch, error: Exception) -> None:
        """Fail the chats, or the text, of a run that failed; several texts are tried again in halves."""
        ended = self.ended()
        failed = Ended(ended) if ended else RunFailed(f"{type(error).__name__}: {error}")
        failed.__cause__ = error
        if isinstance(run, _ChatBatch):
            self._failures += 1
            for row in run.running:
                run.chats[row].emit(failed)
        elif len(run.entries) > 1 and not ended:
            keys = list(run.entries)
            for half in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
                self._again.append({key: run.entries[key] for key in half})
        else:
            self._failures += 1
            for same in run.entries.values():
                for job, _ in same:
                    _settle(job, failed)

    def _fail_all(self) -> None:
        with self._changed:
            self._failed = True
            error = Ended(self.ended())
            runs = [run.entries for run in (*self._runs, self._flow) if isinstance(run, _Embedding | _Flow)]
            jobs = {job for entries in (*runs, *self._again) for same in entries.values() for job, _ in same} | set(
                self._jobs
            )
            chats = [chat for run in self._runs if isinstance(run, _ChatBatch) for chat in run.chats] + list(
                self._chats
            )
        for job in jobs:
            _settle(job, error)
        for chat in chats:
            chat.emit(error)

    # --- the cache: a broken one is done without
    # -------------------------------------------------------------------------------

    def _cached(self, keys: list[str]) -> dict[str, Row]:
        try:
            return self.model.cache.get(keys) if self.model.cache is not None else {}
        except GraceError as error:
            self._warn(error)
            return {}

    def _store(self, rows: dict[str, Row]) -> None:
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


def _settle(job: _Job, error: Exception | None = None) -> None:
    try:
        if error is None:
            job.future.set_result([job.rows[i] for i in range(len(job.prompts))])
        else:
            job.future.set_exception(error)
    except InvalidStateError:  # cancelled, or failed by another of its texts
        pass
