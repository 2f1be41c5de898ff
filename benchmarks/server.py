"""``grace serve`` under load, compared with the library called in one process on the same texts.

``vs_library``  texts per second of the server with many clients, each of which sends one text, waits for the answer
and sends the next, over those of ``GraceModel.represent`` on the same texts in batches of the same size. It is the
median of rounds, each compared with the library before and after it. Neither has a cache. The same ratio for
texts per second of processor time (``cpu_ratios``) hardly depends on other load; the server's includes HTTP, but
not the clients.

A last phase tests for errors and mixes requests: several texts, base64, texts alone, reranking, chats, and clients
that disconnect before their answer. Every embedding of all phases is compared with the library's. The memory is
that reported by the server itself.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import aiohttp
import numpy as np
import torch

from grace_core.geometry import Role
from grace_core.model import GraceModel
from grace_core.pooling import Pooling
from grace_study.corpus import beir

TOLERANCE = 1e-4  # of every component of a unit vector, as rounding depends on the shape of a batch


def run(model: str = "demo-base", *, clients: int = 64, seconds: float = 60.0, texts: int = 512, runs: int = 3) -> dict:
    """``{ratios, cpu_ratios, rounds, texts_per_second, phases, model, clients, texts, threads}``: ``rounds`` are
    the ratios of the rounds; a phase has the numbers of answers and of wrong ones, and the memory."""
    grace = GraceModel.from_pretrained(model)
    rows = beir()[0]
    chosen = [f"{row['title']}\n{row['text']}" for row in random.Random(0).sample(rows, min(texts, len(rows)))]
    grace.represent(chosen[:64])  # warm
    representations, library = _library(grace, chosen)

    def vectors(pooling: Pooling, role: Role) -> np.ndarray:
        return grace.geometry.vectors(representations.sums, representations.counts, pooling, role)

    expected = {pooling: vectors(pooling, Role.DOCUMENT) for pooling in Pooling}
    queries, libraries, phases = vectors(Pooling.FULL, Role.QUERY), [library], []
    with server(model) as url:
        load = Load(url, grace.name, chosen, expected, queries)
        for _ in range(runs):
            phases.append(asyncio.run(load.phase(load.one_text, clients=clients, seconds=seconds)))
            libraries.append(_library(grace, chosen)[1])
        mixed = asyncio.run(load.phase(load.anything, clients=clients, seconds=seconds))
    # seconds a text: wall time and processor time
    library_seconds = np.array([(before + after) / 2 for before, after in itertools.pairwise(libraries)]) / len(chosen)
    served = np.array([[phase["seconds"], phase["cpu_seconds"]] for phase in phases]) / [
        [phase["texts"]] for phase in phases
    ]
    rounds = library_seconds / served
    wall, cpu = np.median(rounds, 0).round(3).tolist()
    speeds = {"server": served, "library": library_seconds}
    return {
        "ratios": {"vs_library": wall},
        "cpu_ratios": {"vs_library": cpu},
        "rounds": rounds[:, 0].round(3).tolist(),
        "texts_per_second": {name: round(float(1 / np.median(seconds[:, 0])), 1) for name, seconds in speeds.items()},
        "phases": {
            **{f"one text a request, {number}": phase for number, phase in enumerate(phases, 1)},
            "mixed": mixed,
        },
        "model": model,
        "clients": clients,
        "texts": len(chosen),
        "threads": torch.get_num_threads(),
    }


def _library(grace: GraceModel, texts: list[str]):
    """Representations, and their seconds: wall time and processor time."""
    began = np.array([time.perf_counter(), time.process_time()])
    representations = grace.represent(texts, batch_size=64)
    return representations, np.array([time.perf_counter(), time.process_time()]) - began


@contextmanager
def server(model: str):
    """Runs ``grace serve`` without a cache, and gives its address."""
    command = [sys.executable, "-m", "grace_cli", "serve", "--model", model, "--port", "0", "--no-cache"]
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    try:
        line = process.stdout.readline()  # printed when it is ready
        yield re.search(r"http://\S+(?=/v1)", line)[0]
    finally:
        process.terminate()
        process.wait(120)


class Load:
    """Clients that send requests and compare the answers with the expected ones."""

    def __init__(
        self, url: str, model: str, texts: list[str], expected: dict[Pooling, np.ndarray], queries: np.ndarray
    ):
        self.url, self.model, self.texts, self.expected, self.queries = url, model, texts, expected, queries
        self.random = random.Random(1)

    async def phase(self, ask: Callable[[], Awaitable[int]], *, clients: int, seconds: float) -> dict:
        """Each client sends requests one after the other for ``seconds`` and waits for its last answer, which
        counts too.
        """
        self.order, self.codes, self.wrong, self.abandoned = itertools.cycle(range(len(self.texts))), Counter(), 0, 0
        self.texts_done, self.latencies, self.memory = 0, [], []
        # aiohttp, since the clients share the processor with the server
        async with aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(limit=0)) as self.http:
            began, before = time.perf_counter(), await self._counts()
            end = began + seconds
            watch = asyncio.create_task(self._watch())
            await asyncio.gather(*(self._client(ask, end) for _ in range(clients)))
            watch.cancel()
            cpu, batched, batches = await self._counts() - before
        third = len(self.memory) // 3
        return {
            "seconds": round(self.last - began, 1),
            "cpu_seconds": round(cpu, 1),
            "mean_batch": round(batched / max(batches, 1), 1),
            "texts": self.texts_done,
            "requests": sum(self.codes.values()),
            "codes": {str(code): count for code, count in sorted(self.codes.items())},
            "wrong": self.wrong,
            "abandoned": self.abandoned,
            "latency": {f"p{p}": round(float(np.percentile(self.latencies, p)), 3) for p in (50, 95, 99)},
            "memory_mb": {"first_third": self.memory[third], "end": self.memory[-1]},
        }

    async def _client(self, ask: Callable[[], Awaitable[int]], end: float) -> None:
        while (sent := time.perf_counter()) < end:
            done = await ask()  # not within the line below, which would read the sum before the wait
            self.texts_done += done
            self.last = time.perf_counter()
            self.latencies.append(self.last - sent)

    async def _watch(self) -> None:
        while True:
            self.memory.append(round(await self._metric("process_resident_memory_bytes") / 2**20))
            await asyncio.sleep(1)

    async def _counts(self) -> np.ndarray:
        """The server's processor time, the texts in its batches, and the batches."""
        batches = [f"grace_step_texts_{what}" for what in ("sum", "count")]
        return np.array([await self._metric(name) for name in ("process_cpu_seconds_total", *batches)])

    async def _metric(self, name: str) -> float:
        async with self.http.get("/metrics") as answer:
            return float(re.search(rf"^{re.escape(name)} (\S+)", await answer.text(), re.M)[1])

    async def _post(self, path: str, body: dict) -> dict | None:
        async with self.http.post(path, json={"model": self.model} | body) as answer:
            self.codes[answer.status] += 1
            if answer.status == 429:
                await asyncio.sleep(float(answer.headers["Retry-After"]))
            return await answer.json() if answer.status == 200 else None

    async def one_text(self) -> int:
        return await self._embed([next(self.order)], "float", Pooling.FULL)

    async def _embed(self, places: list[int], encoding: str, pooling: Pooling) -> int:
        body = {"input": [self.texts[i] for i in places], "encoding_format": encoding, "pooling": pooling.value}
        answer = await self._post("/v1/embeddings", body)
        if answer is None:
            return 0
        embeddings = [item["embedding"] for item in answer["data"]]
        vectors = np.array(
            [np.frombuffer(base64.b64decode(v), "<f4") for v in embeddings] if encoding == "base64" else embeddings
        )
        self.wrong += int((np.abs(vectors - self.expected[pooling][places]).max(axis=1) > TOLERANCE).sum())
        return len(places)

    async def anything(self) -> int:
        chance = self.random.random()
        places = [next(self.order) for _ in range(self.random.randint(1, 8))]
        if chance < 0.1:  # disconnects
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._embed(places, "float", Pooling.FULL), self.random.random())
            self.abandoned += 1
            return 0
        if chance < 0.2:
            messages = [{"role": "user", "content": self.texts[places[0]]}]
            await self._post("/v1/chat/completions", {"messages": messages, "max_tokens": 32})
            return 0
        if chance < 0.3:
            return await self._rerank(places)
        return await self._embed(places, self.random.choice(["float", "base64"]), self.random.choice(list(Pooling)))

    async def _rerank(self, places: list[int]) -> int:
        query, *documents = places
        if not documents:
            return 0
        answer = await self._post(
            "/rerank", {"query": self.texts[query], "documents": [self.texts[i] for i in documents]}
        )
        if answer is None:
            return 0
        vectors = self.expected[Pooling.FULL]
        for result in answer["results"]:
            self.wrong += (
                abs(result["relevance_score"] - float(self.queries[query] @ vectors[documents[result["index"]]]))
                > TOLERANCE
            )
        return len(places)


if __name__ == "__main__":
    import json

    print(json.dumps(run(), indent=2))
