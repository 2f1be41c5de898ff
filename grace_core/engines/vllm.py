"""Generation by vLLM in one pass: the hidden states are caught inside its worker as it generates
(grace_core.engines.vllm_worker).

vLLM returns either tokens or states, never both from one engine. A second forward over text and rationale, by
a pooling engine or by transformers, would give the same vectors and costs as much computing again as the
generation itself, so it was measured and rejected (docs/vllm.md).

Prefix caching computes the system prompt once. Where two texts begin alike it also skips states that belong
to a text; these are the same for every text with that beginning, so they are computed apart, once, and added.
All counts are compared with what they must be.

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
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from cachetools import LRUCache

from grace_core.engines.inflight import Decoding, FinishedRow
from grace_core.engines.transformers import PooledBatch
from grace_core.errors import GraceError, first_line
from grace_core.pooling import PARTS
from grace_core.prompt import Prompt

INSTALL = "pip install -r requirements-vllm.txt, on Linux with an NVIDIA GPU; or use --engine transformers"
WORKER = "grace_core.engines.vllm_worker.PartSums"
ENVIRONMENT = {
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout belongs to results
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # processes that bind to the same cores wait for each other
}
CPU_BLOCK = 32  # tokens to a block of the cache: the smallest that vLLM's attention on a CPU takes; the shorter, the more is shared
ROOM = (
    4096  # positions that an engine has at least, if the model has them: for rationales and settings other than its own
)
PREFIXES = 1024  # beginnings whose sums are remembered


class VllmEngine:
    """A causal LM in vLLM. Takes and gives what TransformersEngine does; several threads may use it, and
    share its batches.

    ``length`` is the longest prompt and rationale together that is expected. Raises GraceError where vLLM is
    not installed or does not start.
    """

    batch = 512  # prompts to hand over at once: vLLM schedules them itself, and idles only while the last of them end

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
        self._arrived: dict[str, list] = {}  # outputs by request, until whoever asked comes for them
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

    def pool(self, prompts: list[Prompt], forced: list[list[int]] | None = None) -> PooledBatch:
        """Pool the prompts without generating, with the given rationale ids (one list a prompt) behind them if any."""
        forced = [list(ids) for ids in forced] if forced else [[] for _ in prompts]
        sums, _ = self._read(prompts, forced)
        return PooledBatch(torch.from_numpy(sums), _counts(prompts, forced), forced, [False] * len(prompts))

    def states(self, prompts: list[Prompt], forced: list[list[int]]) -> list[np.ndarray]:
        """Last hidden states ``(t, d)`` fp32 of the pooled positions of every prompt with its rationale ids."""
        _, tokens = self._read(prompts, forced, keep=True)
        return [states[prompt.start :] for prompt, states in zip(prompts, tokens, strict=True)]

    def generate(self, prompts: list[Prompt], decoding: Decoding, seeds: list[int] | None = None) -> PooledBatch:
        """Write a rationale for every prompt and pool text, template and rationale states on the way.

        ``seeds``, one a prompt, take the place of the decoding's own.
        """
        steps = self._generate(prompts, decoding, seeds, self._vllm.RequestOutputKind.FINAL_ONLY)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                return stop.value

    def each(self, prompts: list[Prompt], decoding: Decoding, *, width: int) -> Iterator[tuple[int, FinishedRow]]:
        """The rows of :meth:`generate` for ``width`` prompts after the other."""
        for start in range(0, len(prompts), width):
            out = self.generate(prompts[start : start + width], decoding)
            rows = zip(out.rationale_ids, out.sums, out.counts.tolist(), out.truncated, strict=True)
            yield from ((start + i, FinishedRow(*row)) for i, row in enumerate(rows))

    def steps(
        self, prompts: list[Prompt], decoding: Decoding, seeds: list[int] | None = None
    ) -> Iterator[list[tuple[int, int]]]:
        """As :meth:`generate`, step by step: yields the ``(row, token)`` pairs of each step and returns the
        PooledBatch result at the end.
        """
        return self._generate(prompts, decoding, seeds, self._vllm.RequestOutputKind.DELTA)

    def _generate(self, prompts, decoding, seeds, kind) -> Iterator[list[tuple[int, int]]]:
        written: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        # one token more than asked for: the last one's state exists once it is fed back
        limit = decoding.max_new_tokens
        params = [
            {
                "max_tokens": limit + 1,
                "temperature": decoding.temperature,
                "top_p": decoding.top_p,
                "output_kind": kind,
                "stop_token_ids": sorted(self.end_ids),
                "seed": _seed(prompt, seed) if decoding.temperature else None,
            }
            for prompt, seed in zip(prompts, seeds or [decoding.seed] * len(prompts), strict=True)
        ]
        with _Requests(
            self, [prompt.ids for prompt in prompts], [_borders(prompt) for prompt in prompts], params
        ) as requests:
            for arrived in requests:
                new = []
                for row, tokens in arrived:
                    for token in tokens:
                        if token in self.end_ids and len(written[row]) < limit:
                            ended[row] = True
                        elif not ended[row] and len(written[row]) < limit:
                            written[row].append(token)
                            new.append((row, token))
                if new:
                    yield new
            sums = self._whole(
                prompts,
                written,
                requests.take([len(p.ids) + len(ids) for p, ids in zip(prompts, written, strict=True)]),
            )
        return PooledBatch(torch.from_numpy(sums), _counts(prompts, written), written, [not end for end in ended])

    def _whole(self, prompts: list[Prompt], written: list[list[int]], took: dict) -> np.ndarray:
        """Part sums ``(n, 3, d)`` of generated rows: what the worker saw, and the states that the prefix
        cache spared.
        """
        sums, ends = took["sums"], [len(p.ids) + len(ids) for p, ids in zip(prompts, written, strict=True)]
        skipped, odd = {}, []
        for row, (prompt, first, seen) in enumerate(zip(prompts, took["first"], took["seen"], strict=True)):
            if seen != ends[row]:  # preempted in the middle of its prompt, and resumed from another's cached block
                odd.append(row)
            elif first > prompt.start:
                skipped[row] = (tuple(prompt.ids[:first]), prompt.start, min(prompt.stop, first))
        with self._prefix_lock:
            known = {key: self._prefixes[key] for key in skipped.values() if key in self._prefixes}
        missing = [key for key in dict.fromkeys(skipped.values()) if key not in known]
        found, _ = self._read([Prompt(list(ids), start, stop) for ids, start, stop in missing], [[] for _ in missing])
        known |= zip(missing, found, strict=True)
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
        params = [{"max_tokens": 1, "temperature": 0.0, "skip_reading_prefix_cache": True}] * len(rows)
        with _Requests(self, rows, [_borders(prompt) for prompt in prompts], params, keep=keep) as requests:
            for _ in requests:
                pass
            took = requests.take([len(row) for row in rows])
        if took["first"] != [0] * len(rows) or took["seen"] != [len(row) for row in rows]:
            raise GraceError(
                "vLLM did not compute every position of a prompt; this version of it is not the one that GRACE knows (0.32)"
            )
        d = took["sums"].shape[2]
        return took["sums"], [
            np.frombuffer(states, np.float32).reshape(-1, d) for states in took["tokens"]
        ] if keep else []

    def _rpc(self, method: str, *args) -> object:
        """Calls the worker; with several, the last one: all have the same states but with pipelines, where
        only the last has any.
        """
        return self._engine.collective_rpc(method, args=args)[-1]

    def _call(self, work):
        """``work()`` under the lock, with vLLM's own errors turned into GraceError; but for a refusal they
        are lasting.
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
        """Have a thread wake up whoever waits for a process that died: killed from outside, vLLM 0.32 would
        let them wait for ever.
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
    while not engine._lock.acquire(timeout=0.1):  # once it is free nobody waits any more
        for future in list(core.utility_results.values()):
            if not future.done():
                future.set_exception(RuntimeError(engine._died))
    engine._lock.release()


class _Requests:
    """Some requests from their submission to their sums; whatever ends the block early, they are aborted and forgotten.

    Iterating gives lists of ``(row, new tokens)`` until all are finished. Every thread that waits takes a step for all.
    """

    def __init__(
        self,
        engine: VllmEngine,
        rows: list[list[int]],
        borders: list[tuple[int, int, int]],
        params: list[dict],
        *,
        keep=False,
    ):
        self.engine, self.rows, self.borders, self.params, self.keep = engine, rows, borders, params, keep
        self.keys: list[int] = []
        self.taken = False

    def __enter__(self):
        for row, given in zip(self.rows, self.params, strict=True):
            if len(row) + given["max_tokens"] > self.engine.positions:
                raise GraceError(
                    f"a prompt of {len(row)} tokens with {given['max_tokens'] - 1} more takes {len(row) + given['max_tokens']} of vLLM's "
                    f"{self.engine.positions} positions; lower max_prompt_tokens or max_new_tokens, or load the model with higher ones"
                )
        try:
            self.engine._call(self._submit)
        except GraceError:
            self.__exit__()
            raise
        return self

    def _submit(self) -> None:
        engine = self.engine
        for row, borders, given in zip(self.rows, self.borders, self.params, strict=True):
            key = next(engine._keys)
            params = engine._vllm.SamplingParams(
                detokenize=False, ignore_eos=True, extra_args={"grace": [key, *borders, int(self.keep)]}, **given
            )
            engine._arrived[str(key)] = []
            self.keys.append(key)
            engine._engine.add_request(str(key), {"prompt_token_ids": row}, params)

    def __iter__(self) -> Iterator[list[tuple[int, list[int]]]]:
        engine, places = self.engine, {str(key): row for row, key in enumerate(self.keys)}
        waiting = dict(places)
        while waiting:
            arrived = engine._call(lambda: self._step(waiting))
            for output in arrived:
                if output.finished and waiting.pop(output.request_id, None) is not None:
                    reason = output.outputs[0].finish_reason
                    if reason not in ("stop", "length"):
                        raise GraceError(f"vLLM ended a request with {reason!r}; try again, or lower max_prompt_tokens")
            yield [(places[output.request_id], list(output.outputs[0].token_ids)) for output in arrived]

    def _step(self, waiting: dict[str, int]) -> list:
        """What has come for these requests; if nothing has, one step of the engine first."""
        arrived = self.engine._arrived
        if not any(arrived[name] for name in waiting):
            for output in self.engine._engine.step():
                if output.request_id in arrived:
                    arrived[output.request_id].append(output)
        found = [output for name in waiting for output in arrived[name]]
        for name in waiting:
            arrived[name] = []
        return found

    def take(self, ends: list[int]) -> dict:
        """The worker's sums ``(n, 3, d)`` up to ``ends``, with the positions between which it saw states."""
        took = self.engine._call(lambda: self.engine._rpc("grace_take", self.keys, ends))
        self.taken = True
        took["sums"] = np.frombuffer(took["sums"], np.float32).reshape(len(ends), len(PARTS), -1).copy()
        return took

    def __exit__(self, *_) -> None:
        for key in self.keys:
            self.engine._arrived.pop(str(key), None)
        if not self.taken and self.keys and self.engine.alive:
            self.engine._call(self._abort)

    def _abort(self) -> None:
        self.engine._engine.abort_request([str(key) for key in self.keys])
        self.engine._rpc("grace_drop", self.keys)


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


def _counts(prompts: list[Prompt], rationales: list[list[int]]) -> torch.Tensor:
    """Token counts of the parts ``(n, 3)``."""
    ends = [(*_borders(prompt), len(prompt.ids) + len(ids)) for prompt, ids in zip(prompts, rationales, strict=True)]
    return torch.tensor([[b - a for a, b in pairwise(row)] for row in ends], dtype=torch.long).reshape(-1, len(PARTS))


def _seed(prompt: Prompt, seed: int) -> int:
    """A seed for one prompt's samples: from the decoding's seed and the prompt's tokens, so that its batch
    does not matter.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {prompt.ids}".encode()).digest()[:7], "big")
