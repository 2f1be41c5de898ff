"""Generation by vLLM in one pass: the hidden states are caught inside its worker as it generates
(grace_core.engines.vllm_worker).

vLLM returns either tokens or states, never both from one engine. A second forward over text and rationale, by
a pooling engine or by transformers, would give the same vectors and cost as much again as the generation
itself, so it was measured and rejected (docs/vllm.md).

Prefix caching computes the system prompt once. Where two texts begin alike it also skips states that belong
to a text; these are the same for every text with that beginning, so they are computed once, separately, and
added. All counts are checked.

Greedy rationales equal those of the transformers engine but where two tokens are equally likely up to
rounding. Samples do not: each request is seeded by its text, so that a text's sample does not depend on its
batch, but the noise is vLLM's.

``$GRACE_VLLM_ARGS`` is passed on to vLLM as engine arguments, e.g. {"gpu_memory_utilization": 0.5,
"tensor_parallel_size": 2}.

vLLM runs in a process of its own. A program that makes an engine therefore needs ``if __name__ ==
"__main__":`` around its code.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import multiprocessing.connection
import os
import threading
import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from cachetools import LRUCache

from grace_core.engines.base import Decoding, Engine, Step
from grace_core.errors import GraceError, first_line
from grace_core.pooling import PARTS, Representation
from grace_core.prompt import Prompt

INSTALL = "pip install -r requirements-vllm.txt, on Linux with an NVIDIA GPU; or use --engine transformers"
WORKER = "grace_core.engines.vllm_worker.PartSums"
ENVIRONMENT = {
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout belongs to results
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # processes that bind to the same cores wait for each other
}
# tokens to a block of the cache: the smallest that vLLM's attention on a CPU takes; the shorter, the more is shared
CPU_BLOCK = 32
# positions that an engine has at least, if the model has them: for rationales and settings other than its own
ROOM = 4096
PREFIXES = 1024  # beginnings whose sums are remembered
FETCH_SHARE = 4  # sums are fetched from the worker when one row in this many has ended: a call takes milliseconds


class VllmEngine(Engine):
    """A causal LM in vLLM. Several threads may use it; their requests share its steps.

    ``length`` is the longest prompt and rationale together that is expected. Raises GraceError where vLLM is
    not installed or does not start.
    """

    name, title, variant = "vllm", "vLLM", "vllm"
    schedules = True
    preferred_batch = 512  # vLLM schedules them itself, and idles only while the last of them end

    def __init__(
        self,
        folder: str | Path,
        *,
        dtype: str | None,
        pad_id: int,
        end_ids: set[int],
        length: int,
        positions: int | None,
    ):
        self._vllm = _import_vllm()
        from vllm.platforms import current_platform

        self.pad_id, self.end_ids = pad_id, end_ids
        self.device = torch.device(current_platform.device_type)
        on_cpu = self.device.type == "cpu"
        self.dtype = dtype or ("float32" if on_cpu else "bfloat16")
        # one more than is pooled: the state of a rationale's last token appears when the next one is generated
        self.positions = min(positions or length + 1, max(ROOM, length + 1))
        options = (_cpu_options(self.positions) if on_cpu else {}) | _given_options()
        try:
            self._engine = self._vllm.LLMEngine.from_engine_args(
                self._vllm.EngineArgs(
                    model=str(folder),
                    dtype=self.dtype,
                    max_model_len=self.positions,
                    skip_tokenizer_init=True,
                    generation_config="vllm",
                    enable_prefix_caching=True,
                    disable_log_stats=True,
                    worker_extension_cls=WORKER,
                    **options,
                )
            )
            self._rpc("grace_start")
        except Exception as error:  # vLLM raises whatever its parts raise
            raise GraceError(
                f"vLLM does not start with {folder}: {first_line(error)}; its own log says more with VLLM_LOGGING_LEVEL=INFO"
            ) from error
        self._lock = threading.Lock()
        self._keys = itertools.count(1)
        self._outputs: dict[str, list] = {}  # by request, until its own thread fetches them
        self._prefixes: LRUCache[tuple, np.ndarray] = LRUCache(PREFIXES)
        self._prefix_lock = threading.Lock()
        self._died: str | None = None  # why nothing runs any more
        self._watch()

    @property
    def alive(self) -> bool:
        """False once vLLM's process has died, or was closed."""
        return self._died is None

    def close(self) -> None:
        """End vLLM's processes and free their memory; requests fail from now on."""
        self._died = self._died or "it was closed"
        with self._lock:
            engine, self._engine = self._engine, None
            if engine is not None:
                engine.engine_core.shutdown()

    def forget(self) -> None:
        """Empty the prefix cache, and what is known of beginnings."""
        self._call(lambda: self._engine.reset_prefix_cache())
        with self._prefix_lock:
            self._prefixes.clear()

    def start(self, decoding: Decoding, *, stream: bool = False) -> VllmBatch:
        kinds = self._vllm.RequestOutputKind
        return VllmBatch(self, decoding, kinds.DELTA if stream else kinds.FINAL_ONLY)

    def pool(self, prompts: list[Prompt], forced: list[list[int]] | None = None) -> list[Representation]:
        forced = [list(ids) for ids in forced] if forced else [[] for _ in prompts]
        sums, _ = self._read(prompts, forced)
        return _rows(prompts, forced, sums, [False] * len(prompts))

    def states(self, prompts: list[Prompt], forced: list[list[int]]) -> list[np.ndarray]:
        _, tokens = self._read(prompts, forced, keep=True)
        return [states[prompt.start :] for prompt, states in zip(prompts, tokens, strict=True)]

    def _complete(self, prompts: list[Prompt], written: list[list[int]], taken: dict) -> np.ndarray:
        """Part sums ``(n, 3, d)`` of generated rows: those of the states that the worker saw, and of the states
        that the prefix cache made it skip.
        """
        sums, ends = taken["sums"], [len(p.ids) + len(ids) for p, ids in zip(prompts, written, strict=True)]
        skipped, odd = {}, []
        for row, (prompt, first, seen) in enumerate(zip(prompts, taken["first"], taken["seen"], strict=True)):
            if seen != ends[row]:  # preempted in the middle of its prompt, and resumed from another's cached block
                odd.append(row)
            elif first > prompt.start:
                skipped[row] = (tuple(prompt.ids[:first]), prompt.start, min(prompt.stop, first))
        with self._prefix_lock:
            known = {key: self._prefixes[key] for key in skipped.values() if key in self._prefixes}
        missing = [key for key in dict.fromkeys(skipped.values()) if key not in known]
        skipped_sums, _ = self._read([Prompt(list(ids), a, b) for ids, a, b in missing], [[] for _ in missing])
        known |= zip(missing, skipped_sums, strict=True)
        for row, key in skipped.items():
            sums[row] += known[key]
        with self._prefix_lock:
            self._prefixes.update(known)
        if odd:
            sums[odd], _ = self._read([prompts[row] for row in odd], [written[row] for row in odd])
        return sums

    def _read(
        self, prompts: list[Prompt], forced: list[list[int]], *, keep: bool = False
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Part sums ``(n, 3, d)`` by one forward that takes nothing from the prefix cache; with ``keep``,
        every state ``(t, d)`` too.
        """
        if not prompts:
            return np.zeros((0, len(PARTS), 1), np.float32), []
        rows = [prompt.ids + list(ids) for prompt, ids in zip(prompts, forced, strict=True)]
        params = {"max_tokens": 1, "temperature": 0.0, "skip_reading_prefix_cache": True}
        requests = _Requests(self, keep=keep)
        try:
            requests.submit(range(len(rows)), rows, [_borders(prompt) for prompt in prompts], [params] * len(rows))
            while requests.running:
                requests.step()
            taken = requests.take(range(len(rows)), [len(row) for row in rows])
        finally:
            requests.cancel()
        if taken["first"] != [0] * len(rows) or taken["seen"] != [len(row) for row in rows]:
            raise GraceError(
                "vLLM did not compute every position of a prompt; this version of it is not the one that GRACE knows (0.32)"
            )
        if not keep:
            return taken["sums"], []
        d = taken["sums"].shape[2]
        return taken["sums"], [np.frombuffer(states, np.float32).reshape(-1, d) for states in taken["tokens"]]

    def _rpc(self, method: str, *args) -> object:
        """Call the worker, and return the last one's answer where there are several: with a pipeline only the
        last has states, else all have the same.
        """
        return self._engine.collective_rpc(method, args=args)[-1]

    def _call(self, work):
        """``work()`` under the lock, with vLLM's own errors turned into GraceError; after any but a refusal the
        engine counts as dead.
        """
        with self._lock:
            cause = None
            if not self._died:
                try:
                    return work()
                except self._vllm.ValidationError as error:
                    raise GraceError(f"vLLM refuses the request: {first_line(error)}") from error
                except Exception as error:  # a dead process shows as one of several
                    self._died, cause = self._died or first_line(error), error
            raise GraceError(
                f"vLLM is not running any more ({self._died}); load the model again, or restart the server"
            ) from cause

    def _watch(self) -> None:
        """Start a thread that wakes up those who wait for a process that died: without it they would wait for
        ever in vLLM 0.32.
        """
        import psutil

        core, me = self._engine.engine_core, weakref.ref(self)
        manager = getattr(getattr(core, "resources", None), "engine_manager", None)
        if manager is not None:
            workers = {
                process.sentinel: psutil.Process(process.pid).children(recursive=True) for process in manager.processes
            }
            threading.Thread(target=_wake_when_dead, args=(me, workers), daemon=True, name="vllm-watch").start()


def _wake_when_dead(me: weakref.ref[VllmEngine], workers: dict[int, list]) -> None:
    for sentinel in multiprocessing.connection.wait(list(workers)):
        for worker in workers[
            sentinel
        ]:  # one whose parent was killed was seen to run on, which would hold a GPU's memory
            with contextlib.suppress(Exception):  # psutil's, for one that is gone, as it should be
                worker.kill()
    engine = me()
    if engine is None or engine._died or engine._engine is None:
        return
    engine._died = "its process was killed, or ended by itself"
    core = engine._engine.engine_core
    core.outputs_queue.put_nowait(RuntimeError(engine._died))
    while not engine._lock.acquire(timeout=0.1):  # free once nobody waits
        for future in list(core.utility_results.values()):
            if not future.done():
                future.set_exception(RuntimeError(engine._died))
    engine._lock.release()


class _Requests:
    """Requests by name, from their submission until their sums are taken or they are cancelled.

    Every thread that waits takes a step for all requests of the engine.
    """

    def __init__(self, engine: VllmEngine, *, keep: bool = False):
        self.engine, self.keep = engine, keep
        self._keys: dict[Hashable, int] = {}
        self.running: dict[str, Hashable] = {}  # the names of those that have not ended, by vLLM's own

    def submit(
        self,
        names: Sequence[Hashable],
        rows: list[list[int]],
        borders: list[tuple[int, int, int]],
        params: list[dict],
    ) -> None:
        positions = self.engine.positions
        for row, given in zip(rows, params, strict=True):
            if len(row) + given["max_tokens"] > positions:
                raise GraceError(
                    f"a prompt of {len(row)} tokens with {given['max_tokens'] - 1} more takes "
                    f"{len(row) + given['max_tokens']} of vLLM's {positions} positions; lower max_prompt_tokens or "
                    "max_new_tokens, or load the model with higher ones"
                )
        self.engine._call(lambda: self._add(names, rows, borders, params))

    def _add(self, names, rows, borders, params) -> None:
        engine = self.engine
        for name, row, parts, given in zip(names, rows, borders, params, strict=True):
            key = next(engine._keys)
            sampling = engine._vllm.SamplingParams(
                detokenize=False, ignore_eos=True, extra_args={"grace": [key, *parts, int(self.keep)]}, **given
            )
            engine._outputs[str(key)] = []
            self._keys[name], self.running[str(key)] = key, name
            engine._engine.add_request(str(key), {"prompt_token_ids": row}, sampling)

    def step(self) -> list[tuple[Hashable, list[int], bool]]:
        """Name, new tokens and whether it has ended, of the requests for which something has come."""
        outputs = self.engine._call(self._fetch)
        for output in outputs:
            reason = output.outputs[0].finish_reason
            if output.finished and reason not in ("stop", "length"):
                raise GraceError(f"vLLM ended a request with {reason!r}; try again, or lower max_prompt_tokens")
        named = [(self.running[output.request_id], output) for output in outputs]
        for output in outputs:
            if output.finished:
                self.running.pop(output.request_id, None)
        return [(name, list(output.outputs[0].token_ids), output.finished) for name, output in named]

    def _fetch(self) -> list:
        """What has come for these requests; if nothing has, one step of the engine first."""
        outputs = self.engine._outputs
        if not any(outputs[key] for key in self.running):
            for output in self.engine._engine.step():
                if output.request_id in outputs:
                    outputs[output.request_id].append(output)
        fetched = [output for key in self.running for output in outputs[key]]
        for key in self.running:
            outputs[key] = []
        return fetched

    def take(self, names: Sequence[Hashable], ends: list[int]) -> dict:
        """The worker's sums ``(n, 3, d)`` up to ``ends``, with the positions between which it saw states."""
        keys = [self._keys[name] for name in names]
        taken = self.engine._call(lambda: self.engine._rpc("grace_take", keys, ends))
        for name in names:
            self.engine._outputs.pop(str(self._keys.pop(name)), None)
        taken["sums"] = np.frombuffer(taken["sums"], np.float32).reshape(len(ends), len(PARTS), -1).copy()
        return taken

    def cancel(self, names: Sequence[Hashable] | None = None) -> None:
        """Abort and forget requests, or all that are left."""
        keys = [self._keys.pop(name) for name in list(self._keys if names is None else names) if name in self._keys]
        for key in keys:
            self.engine._outputs.pop(str(key), None)
            self.running.pop(str(key), None)
        if keys and self.engine.alive:
            self.engine._call(lambda: self._abort(keys))

    def _abort(self, keys: list[int]) -> None:
        self.engine._engine.abort_request([str(key) for key in keys])
        self.engine._rpc("grace_drop", keys)


@dataclass
class _Row:
    prompt: Prompt
    ids: list[int] = field(default_factory=list)
    ended: bool = False  # by an end token


class VllmBatch:
    """A :class:`grace_core.engines.base.Batch` of a VllmEngine, which shares its steps with all others."""

    open = True

    def __init__(self, engine: VllmEngine, decoding: Decoding, kind):
        self.engine, self.decoding, self._kind = engine, decoding, kind
        self._requests = _Requests(engine)
        self._rows: dict[Hashable, _Row] = {}
        self._ended: list[Hashable] = []  # names of rows whose sums are still in the worker

    def __len__(self) -> int:
        return len(self._rows)

    def submit(self, names: Sequence[Hashable], prompts: Sequence[Prompt], seeds: Sequence[int] | None = None) -> None:
        common = {
            # one token more than asked for: the last one's state exists once it is fed back
            "max_tokens": self.decoding.max_new_tokens + 1,
            "temperature": self.decoding.temperature,
            "top_p": self.decoding.top_p,
            "output_kind": self._kind,
            "stop_token_ids": sorted(self.engine.end_ids),
        }
        seeds = seeds or [self.decoding.seed] * len(prompts)
        params = [
            common | {"seed": _seed(prompt, seed) if self.decoding.temperature else None}
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        self._requests.submit(names, [p.ids for p in prompts], [_borders(p) for p in prompts], params)
        self._rows |= {name: _Row(prompt) for name, prompt in zip(names, prompts, strict=True)}

    def step(self) -> Step:
        limit, new = self.decoding.max_new_tokens, []
        for name, tokens, finished in self._requests.step() if self._requests.running else ():
            row = self._rows[name]
            for token in tokens:
                if token in self.engine.end_ids and len(row.ids) < limit:
                    row.ended = True
                elif not row.ended and len(row.ids) < limit:
                    row.ids.append(token)
                    new.append((name, token))
            if finished:
                self._ended.append(name)
        if self._requests.running and len(self._ended) < max(1, len(self._rows) // FETCH_SHARE):
            return Step(new, [])
        return Step(new, self._finish())

    def _finish(self) -> list[tuple[Hashable, Representation]]:
        names, self._ended = self._ended, []
        if not names:
            return []
        rows = [self._rows.pop(name) for name in names]
        prompts, ids = [row.prompt for row in rows], [row.ids for row in rows]
        taken = self._requests.take(names, [len(row.prompt.ids) + len(row.ids) for row in rows])
        sums = self.engine._complete(prompts, ids, taken)
        return list(zip(names, _rows(prompts, ids, sums, [not row.ended for row in rows]), strict=True))

    def cancel(self, names: Sequence[Hashable] | None = None) -> None:
        for name in list(self._rows if names is None else names):
            self._rows.pop(name, None)
        self._ended = [name for name in self._ended if name in self._rows]
        self._requests.cancel(names)


class _Vllm:
    """The names of vLLM that are used here."""

    def __init__(self):
        from vllm import EngineArgs, SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.llm_engine import LLMEngine

        self.EngineArgs, self.SamplingParams, self.RequestOutputKind = EngineArgs, SamplingParams, RequestOutputKind
        self.ValidationError, self.LLMEngine = VLLMValidationError, LLMEngine


def _import_vllm() -> _Vllm:
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # the worker knows the first one
    try:
        return _Vllm()
    except ImportError as error:
        raise GraceError(
            f"--engine vllm needs vLLM 0.32, which cannot be imported here ({first_line(error)}): {INSTALL}"
        ) from error


def _cpu_options(positions: int) -> dict:
    # a seeded request whose prompt comes in pieces ends vLLM 0.32 on a CPU: its random generator cannot go back there
    return {
        "enforce_eager": True,
        "block_size": CPU_BLOCK,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(ROOM, positions),
    }


def _given_options() -> dict:
    """vLLM's engine arguments from ``$GRACE_VLLM_ARGS``, a JSON object."""
    text = os.environ.get("GRACE_VLLM_ARGS", "{}")
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise GraceError(
            f'GRACE_VLLM_ARGS must be a JSON object such as {{"gpu_memory_utilization": 0.5}}, got {text[:80]!r}'
        )
    return given


def _borders(prompt: Prompt) -> tuple[int, int, int]:
    """Where text, template and rationale begin."""
    return prompt.start, prompt.stop, len(prompt.ids)


def _rows(
    prompts: list[Prompt], rationales: list[list[int]], sums: np.ndarray, truncated: list[bool]
) -> list[Representation]:
    """The prompts' rows, with the counts ``(3,)`` of their parts."""
    ends = [(*_borders(prompt), len(prompt.ids) + len(ids)) for prompt, ids in zip(prompts, rationales, strict=True)]
    counts = [np.array([b - a for a, b in pairwise(row)]) for row in ends]
    return list(map(Representation, rationales, sums, counts, truncated))


def _seed(prompt: Prompt, seed: int) -> int:
    """A seed for one prompt's samples, from its tokens and ``seed``, so that its batch does not matter."""
    return int.from_bytes(hashlib.sha256(f"{seed} {prompt.ids}".encode()).digest()[:7], "big")
