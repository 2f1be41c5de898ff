"""A language model on ordinary cores, against llama.cpp with the same GGUF.

``batch``   rationales of many texts: our tokens per second, embeddings included, over llama.cpp's, which only writes; llama.cpp
            decodes as many sequences together as suit it best, and reads the system prompt, which all prompts share, once
``stream``  one text at a time, as in Explore: from the text to the last word of its rationale, tokens per second

Both decode greedily with the same prompts and limits. llama.cpp multiplies the file's quantised weights, the transformers engine
those that they were converted to, so that the words differ; each counts its own. llama-cpp-python is no requirement of the
project: ``docs/performance.md`` tells how it is built.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from os.path import commonprefix

import numpy as np

from grace_benchmarks.rounds import demo_passages
from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.sources import PACKAGES

SEQUENCES = (4, 8, 16, 32, 64)
BATCH = 2048  # tokens that llama.cpp reads in one call


class Llama:
    """Greedy decoding by llama.cpp of up to ``sequences`` prompts at a time."""

    def __init__(self, file: str, *, sequences: int, room: int, threads: int, ends: set[int]):
        """``room``: tokens of the longest prompt and its rationale. ``ends``: ids that end a rationale."""
        try:
            import llama_cpp
        except ImportError as error:
            raise GraceError("llama.cpp is not here: build llama-cpp-python as docs/performance.md tells") from error
        self.lib, self.ends, self.sequences = llama_cpp, ends, sequences
        self.silent = llama_cpp.llama_log_callback(
            lambda level, text, data: None
        )  # ctypes keeps no reference of its own
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_seq_max, params.n_ctx = sequences + 1, room * (sequences + 1)
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True  # sequences may share a prefix
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.words = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def _run(self, rows: Sequence[tuple[int, int, int, bool]]) -> list[int]:
        """Reads tokens ``(id, position, sequence, wanted)``, and gives the likeliest next ids of the wanted ones."""
        for i, (token, position, sequence, wanted) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i], self.batch.logits[i] = token, position, wanted
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
        self.batch.n_tokens = len(rows)
        if self.lib.llama_decode(self.context, self.batch):
            raise RuntimeError("llama_decode failed")
        logits = (self.lib.llama_get_logits_ith(self.context, i) for i, row in enumerate(rows) if row[3])
        return [int(np.ctypeslib.as_array(each, (self.words,)).argmax()) for each in logits]

    def decode(self, prompts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
        """Ids that follow each prompt, at most ``most``, without the end token. A sequence that ends makes room for the next prompt."""
        memory = self.lib.llama_get_memory(self.context)
        self.lib.llama_memory_clear(memory, True)
        shared = len(commonprefix(prompts)) if len(prompts) > 1 else 0  # noqa: RUF071 - it takes any sequences
        if shared:
            self._run([(token, at, self.sequences, False) for at, token in enumerate(prompts[0][:shared])])
        written: list[list[int]] = [[] for _ in prompts]
        waiting, slots = list(range(len(prompts)))[::-1], list(range(self.sequences))
        active: dict[int, int] = {}  # slot: prompt
        while waiting or active:
            rows, order = [], []
            for slot, number in active.items():
                end = len(prompts[number]) + len(written[number]) - 1
                rows.append((written[number][-1], end, slot, True))
                order.append(slot)
            while waiting and slots and len(rows) + len(prompts[waiting[-1]]) - shared <= BATCH:
                slot, number = slots.pop(), waiting.pop()
                self.lib.llama_memory_seq_rm(memory, slot, -1, -1)
                if shared:
                    self.lib.llama_memory_seq_cp(memory, self.sequences, slot, 0, shared)
                last = len(prompts[number]) - 1
                rows += [(prompts[number][at], at, slot, at == last) for at in range(shared, last + 1)]
                active[slot] = number
                order.append(slot)
            for slot, token in zip(order, self._run(rows), strict=True):
                number = active[slot]
                if token not in self.ends:
                    written[number].append(token)
                if token in self.ends or len(written[number]) == most:
                    del active[slot]
                    slots.append(slot)
        return written

    def close(self) -> None:
        self.lib.llama_batch_free(self.batch)
        self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)


def run(*, texts: int = 64, streams: int = 6, runs: int = 3) -> dict:
    """Medians of ``runs`` rounds: ``{ratios, tokens_per_second, sequences, …}``."""
    grace = GraceModel.from_pretrained("smollm2")
    prompts = [grace.prompts.build(text) for text in demo_passages(texts)]
    ids = [list(prompt.ids) for prompt in prompts]
    most, threads = grace.settings.max_new_tokens, os.cpu_count() or 1
    options = {"room": max(map(len, ids)) + most, "threads": threads, "ends": set(grace.engine.end_ids)}
    file = str(PACKAGES["smollm2"].path())

    def timed(work) -> tuple[float, int]:
        started = time.perf_counter()
        tokens = work()
        return time.perf_counter() - started, tokens

    def ours() -> int:
        return sum(len(row.rationale_ids) for row in grace.engine.generate(prompts, grace.settings.decoding))

    def our_streams() -> int:
        total = 0
        for prompt in prompts[:streams]:
            for tokens, _ in grace.engine.decode([prompt], grace.settings.decoding, stream=True):
                total += len(tokens)
        return total

    rates: dict[str, list[float]] = {}

    def note(name: str, work) -> None:
        seconds, tokens = timed(work)
        rates.setdefault(name, []).append(tokens / seconds)

    # how many sequences suit llama.cpp best
    best = {}
    for sequences in SEQUENCES:
        llama = Llama(file, sequences=sequences, **options)
        seconds, tokens = timed(lambda llama=llama: sum(map(len, llama.decode(ids, most))))
        best[sequences] = tokens / seconds
        llama.close()
    sequences = max(best, key=best.get)
    # in turn
    many, one = (Llama(file, sequences=count, **options) for count in (sequences, 1))
    ours()
    for _ in range(runs):
        note("ours", ours)
        note("llama.cpp", lambda: sum(map(len, many.decode(ids, most))))
        note("ours, one stream", our_streams)
        note("llama.cpp, one stream", lambda: sum(len(one.decode([each], most)[0]) for each in ids[:streams]))
    many.close()
    one.close()
    rate = {name: round(float(np.median(values)), 1) for name, values in rates.items()}
    return {
        "ratios": {
            "batch": round(rate["ours"] / rate["llama.cpp"], 3),
            "stream": round(rate["ours, one stream"] / rate["llama.cpp, one stream"], 3),
        },
        "tokens_per_second": rate,
        "llama_by_sequences": {str(count): round(value, 1) for count, value in best.items()},
        "dtype": str(grace.model.dtype).removeprefix("torch."),
        "texts": len(prompts),
        "threads": threads,
    }
