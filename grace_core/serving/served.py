"""A model with all that answers for it: its batcher, the threads in front of it, and what is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastapi import Request

from grace_core.geometry import Geometry
from grace_core.index import GraceIndex
from grace_core.model import GraceModel, Representations
from grace_core.pooling import Pooling
from grace_core.serving.batching import Batcher
from grace_core.serving.errors import ApiError
from grace_core.serving.limits import Limits
from grace_core.serving.metrics import Metrics
from grace_core.serving.texts import prompts_of

T = TypeVar("T")
FEW = 4  # texts that are no reason to change threads
FRONT_THREADS = 4


class Served:
    """The model with all that answers for it."""

    def __init__(self, model: GraceModel, index: GraceIndex | None, limits: Limits):
        self.model, self.index, self.limits = model, index, limits
        self.metrics = Metrics()
        self.batcher = Batcher(model, limits, self.metrics)
        self.front = ThreadPoolExecutor(FRONT_THREADS, thread_name_prefix="grace-front")
        self.created = int(time.time())
        self.others: tuple[str, ...] = ()  # names of models that are served beside this one

    @property
    def names(self) -> tuple[str, str]:
        """The model with its rationales, and by the text alone."""
        return self.model.name, f"{self.model.name}:text"

    @property
    def geometry(self) -> Geometry:
        """That of the collection which is served, so that a client's dot product is the score of a search;
        else the model's own.
        """
        return self.model.geometry if self.index is None else self.index.geometry

    def close(self) -> None:
        self.batcher.close()
        self.front.shutdown()

    def pooling(self, name: str | None, asked: str | None, default: Pooling = Pooling.FULL) -> Pooling:
        """The pooling that a model's name and the field ``pooling`` ask for.

        Raises ApiError for a name that is not served.
        """
        if name not in (None, *self.names, self.model.source):
            there = " and ".join(repr(known) for known in (*self.names, *self.others))
            raise ApiError(
                404,
                f"the model {name!r:.100} is not served here; there are {there}",
                param="model",
                code="model_not_found",
            )
        if name == self.names[1]:
            if asked == Pooling.FULL:
                raise ApiError(
                    400, f"{name!r} embeds the text alone; ask {self.names[0]!r} for pooling {asked!r}", param="pooling"
                )
            return Pooling.TEXT
        return Pooling(asked) if asked else default

    async def in_front(self, function: Callable[..., T], *arguments) -> T:
        """The function's result from one of the front threads, so that nobody else waits for it."""
        return await asyncio.get_running_loop().run_in_executor(self.front, function, *arguments)

    async def by_size(self, texts: int, function: Callable[..., T], *arguments) -> T:
        """The function's result, from a front thread if it is about many texts: for a few the way there takes
        longer than the work.
        """
        return await self.in_front(function, *arguments) if texts > FEW else function(*arguments)

    async def represent(
        self,
        request: Request,
        inputs: Sequence[str] | Sequence[list[int]],
        labels: Sequence[str],
        *,
        rationale: bool,
        truncate: bool,
    ) -> Representations:
        """Representations of a request's texts or token ids, made together with those of other requests."""

        def begin():
            prompts = prompts_of(self.model, inputs, self.limits, labels, rationale=rationale, truncate=truncate)
            return prompts, self.batcher.embed(prompts, rationale=rationale)

        prompts, future = await self.in_front(begin)
        rows = await unless_gone(request, asyncio.wrap_future(future))
        cut = [prompt.text_truncated for prompt in prompts]
        representations = await self.by_size(len(rows), self.model.representations, rows, cut)
        self.metrics.tokens.labels("text").inc(int(representations.counts[:, 0].sum()))
        self.metrics.tokens.labels("rationale").inc(int(representations.counts[:, 2].sum()))
        return representations


async def unless_gone(request: Request, awaited: Awaitable[T]) -> T:
    """The awaited result; if the client goes away first, it is cancelled, so that nothing is computed for nobody."""
    work, gone = asyncio.ensure_future(awaited), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ApiError(499, "the client has gone")
        return work.result()
    finally:
        work.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def usage(representations: Representations) -> dict[str, int]:
    """Tokens of the texts, and all with those of the rationales."""
    text, rationale = int(representations.counts[:, 0].sum()), int(representations.counts[:, 2].sum())
    return {"prompt_tokens": text, "total_tokens": text + rationale}
