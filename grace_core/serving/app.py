"""The HTTP interface: one model, perhaps one collection, for many clients.

    POST /v1/embeddings          OpenAI's, and on demand the rationales
    POST /v1/chat/completions    OpenAI's: a GRACE model still talks
    GET  /v1/models              the model, and the same model by its text alone
    POST /search                 the collection's documents nearest to a query
    POST /rerank, /v1/rerank     documents that come with the request, by their similarity to a query
    GET  /health /metrics /info  for load balancers, Prometheus, and people

Requests are checked and tokenised in a few threads of their own; only the batcher's thread touches the model.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TypeVar

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from grace_core import __version__
from grace_core.cache import Row
from grace_core.errors import GraceError
from grace_core.geometry import Geometry, Role
from grace_core.index import GraceIndex
from grace_core.model import GraceModel, Representations
from grace_core.pooling import Pooling
from grace_core.prompt import Prompt
from grace_core.ranking import dots, order
from grace_core.serving.batching import Batcher
from grace_core.serving.chat_requests import complete, stream, submit
from grace_core.serving.errors import ApiError, from_failure, from_validation, json_response
from grace_core.serving.failures import Closing, Ended, QueueFull, RunFailed
from grace_core.serving.gate import Gate
from grace_core.serving.limits import Limits
from grace_core.serving.metrics import Metrics
from grace_core.serving.schemas import ChatRequest, EmbeddingsRequest, RerankRequest, SearchRequest
from grace_core.serving.texts import positions_of, prompts_of

T = TypeVar("T")
FEW = 4  # texts that are no reason to change threads
FRONT_THREADS = 4


def create_app(
    model: GraceModel, *, index: GraceIndex | None = None, keys: Sequence[str] = (), limits: Limits = Limits()
) -> FastAPI:
    """An ASGI app around ``model``, which belongs to it from now on; ``index`` must be of the same model.

    Raises GraceError if it is not.
    """
    if index is not None and (index.manifest["model"]["sha256"], index.settings) != (model.fingerprint, model.settings):
        raise GraceError(
            f"{index.folder} was built with other weights or settings than {model.name} has; use the model that built it"
        )
    _check_room(model)
    if index is not None:  # read now what the first search would wait for
        index.faiss_index()
        index.hit(0, 1, 0.0)
    served = Served(model, index, limits)

    @asynccontextmanager
    async def lifespan(_app: FastAPI):
        yield
        await asyncio.to_thread(served.close)

    # no pages of documentation: they would load scripts from other hosts
    app = FastAPI(title="GRACE", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, keys=keys, limits=limits, metrics=served.metrics)
    app.state.served = served
    _handle_errors(app)
    _add_openai(app, served)
    _add_retrieval(app, served)
    _add_state(app, served)
    return app


def _check_room(model: GraceModel) -> None:
    positions, needed = positions_of(model), model.prompts.overhead + model.settings.max_new_tokens
    if needed >= positions:
        raise GraceError(
            f"prompt and rationale take {needed} positions without any text, and {model.name} has {positions}; lower max_new_tokens"
        )


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
        made = await self.by_size(len(rows), _representations, self.model, prompts, rows)
        self.metrics.tokens.labels("text").inc(int(made.counts[:, 0].sum()))
        self.metrics.tokens.labels("rationale").inc(int(made.counts[:, 2].sum()))
        return made


def _representations(model: GraceModel, prompts: Sequence[Prompt], rows: Sequence[Row]) -> Representations:
    ids = [row[0] for row in rows]
    return Representations(
        rationales=model.decode(ids),
        rationale_ids=ids,
        sums=np.stack([row[1] for row in rows]),
        counts=np.stack([row[2] for row in rows]),
        truncated=np.array([row[3] for row in rows], dtype=bool),
        text_truncated=np.array([prompt.text_truncated for prompt in prompts], dtype=bool),
    )


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


def usage(made: Representations) -> dict[str, int]:
    """Tokens of the texts, and all with those of the rationales."""
    text, rationale = int(made.counts[:, 0].sum()), int(made.counts[:, 2].sum())
    return {"prompt_tokens": text, "total_tokens": text + rationale}


def _add_openai(app: FastAPI, served: Served) -> None:
    @app.get("/v1/models")
    async def models() -> Response:
        return json_response(
            {"object": "list", "data": [_model_object(served, name) for name in (*served.names, *served.others)]}
        )

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        served.pooling(name, None)
        return json_response(_model_object(served, name))

    @app.post("/v1/embeddings")
    async def embeddings(asked: EmbeddingsRequest, request: Request) -> Response:
        pooling = served.pooling(asked.model, asked.pooling)
        if asked.dimensions not in (None, served.model.dim):
            raise ApiError(
                400,
                f"dimensions must be {served.model.dim} or left out, got {asked.dimensions}: this model was not trained for vectors cut "
                "short, and the first numbers of one would rank texts otherwise than the whole",
                param="dimensions",
                code="unsupported_value",
            )
        wanted = pooling is Pooling.FULL or asked.rationale
        labels = ["input"] if len(asked.input) == 1 else [f"input[{i}]" for i in range(len(asked.input))]
        made = await served.represent(request, asked.input, labels, rationale=wanted, truncate=asked.truncate)
        return await served.by_size(len(made), _embeddings_response, asked, made, pooling, served.geometry)

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Response:
        served.pooling(asked.model, None)
        pending = await served.in_front(
            submit, served.model, served.batcher, served.limits, asked, asyncio.get_running_loop()
        )
        if asked.stream:
            events = stream(served.metrics, pending, asked)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        return json_response(await unless_gone(request, complete(served.metrics, pending, asked)))


def _embeddings_response(
    asked: EmbeddingsRequest, made: Representations, pooling: Pooling, geometry: Geometry
) -> Response:
    vectors = geometry.vectors(made.sums, made.counts, pooling, asked.input_type)
    as_text = asked.encoding_format == "base64"
    data = []
    for i, vector in enumerate(vectors):
        embedding = base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_text else vector
        item = {"object": "embedding", "index": i, "embedding": embedding}
        data.append(item | _flags(asked, made, i))
    return json_response({"object": "list", "data": data, "model": asked.model, "usage": usage(made)})


def _flags(asked: EmbeddingsRequest | RerankRequest, made: Representations, i: int) -> dict:
    """What was asked for of text ``i`` besides its vector or score: the rationale, and whether it or the text
    was cut.
    """
    told = {"rationale": made.rationales[i], "truncated": bool(made.truncated[i])} if asked.rationale else {}
    return told | ({"text_truncated": bool(made.text_truncated[i])} if asked.rationale or asked.truncate else {})


def _model_object(served: Served, name: str) -> dict:
    return {"id": name, "object": "model", "created": served.created, "owned_by": "grace"}


def _add_retrieval(app: FastAPI, served: Served) -> None:
    @app.post("/search")
    async def search(asked: SearchRequest, request: Request) -> Response:
        index = served.index
        if index is None:
            raise ApiError(
                404, "no collection is served here; start the server with --collection", code="no_collection"
            )
        if asked.k > served.limits.max_k:
            raise ApiError(400, f"k must be at most {served.limits.max_k}, got {asked.k}", param="k")
        pooling = served.pooling(asked.model, asked.pooling, index.default_pooling)
        full = pooling is Pooling.FULL
        if full and index.default_pooling is Pooling.TEXT:
            raise ApiError(
                400,
                f"{index.collection.name} was built without rationales; search it with pooling 'text'",
                param="pooling",
            )
        try:
            among = None if asked.filter is None else await served.in_front(index.selections.of, asked.filter)
        except GraceError as error:
            raise ApiError(400, str(error), param="filter") from None
        made = await served.represent(request, [asked.query], ["query"], rationale=full, truncate=asked.truncate)
        hits = await served.in_front(
            lambda: index.hits(index.embed(made, pooling)[0], asked.k, pooling=pooling, where=asked.filter)
        )
        return json_response(
            {
                "model": served.names[0] if full else served.names[1],
                "collection": index.collection.name,
                "rationale": made.rationales[0],
                "truncated": bool(made.truncated[0]),
                "text_truncated": bool(made.text_truncated[0]),
                "results": [hit.as_dict() for hit in hits],
                "usage": usage(made),
                **({} if among is None else {"filtered": len(among)}),
            }
        )

    @app.post("/rerank")
    @app.post("/v1/rerank", include_in_schema=False)
    async def rerank(asked: RerankRequest, request: Request) -> Response:
        pooling = served.pooling(asked.model, asked.pooling)
        wanted = pooling is Pooling.FULL or asked.rationale
        texts, labels = (
            [asked.query, *asked.documents],
            ["query", *(f"documents[{i}]" for i in range(len(asked.documents)))],
        )
        made = await served.represent(request, texts, labels, rationale=wanted, truncate=asked.truncate)
        geometry, (sums, counts) = served.geometry, (made.sums, made.counts)
        query = geometry.vectors(sums[:1], counts[:1], pooling, Role.QUERY)[0]
        places: dict[
            str, int
        ] = {}  # of each text: one that was sent twice may have been run twice, in batches that round otherwise
        first = [places.setdefault(text, i) for i, text in enumerate(asked.documents)]
        scores = dots(geometry.vectors(sums[1:], counts[1:], pooling, Role.DOCUMENT)[first], query)
        results = []
        for i in order(scores, asked.top_n).tolist():
            result = {"index": i, "relevance_score": scores[i]}
            if asked.return_documents:
                result["document"] = {"text": asked.documents[i]}
            results.append(result | _flags(asked, made, i + 1))
        told = {"model": asked.model or served.names[0], "results": results, "usage": usage(made)}
        return json_response(told | _flags(asked, made, 0))


def _add_state(app: FastAPI, served: Served) -> None:
    import torch
    import transformers

    model, index = served.model, served.index
    info = {
        "model": model.name,
        "source": model.source,
        "fingerprint": model.fingerprint,
        "dim": model.dim,
        "dtype": model.dtype,
        "device": str(model.engine.device),
        "settings": asdict(model.settings),
        "geometry": served.geometry.as_dict(),
        "limits": asdict(served.limits),
        "collection": {"name": index.collection.name, "documents": len(index)} if index is not None else None,
        "versions": {"grace": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
    }

    @app.get("/health")
    async def health() -> Response:
        failure_reason = served.batcher.failure_reason()
        if failure_reason:
            return json_response({"status": "unhealthy", "reason": failure_reason}, 503)
        return json_response({"status": "ready"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(served.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/info")
    async def information() -> Response:
        return json_response(info | {"waiting": served.batcher.waiting()})


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def told(_request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(GraceError)
    async def refused(_request: Request, error: GraceError) -> Response:
        return ApiError(400, str(error)).response()

    @app.exception_handler(QueueFull)
    async def full(_request: Request, error: QueueFull) -> Response:
        return ApiError(429, str(error), code="rate_limit_exceeded", retry_after=error.retry_after).response()

    @app.exception_handler(RunFailed)
    @app.exception_handler(Ended)
    async def failed(_request: Request, error: RunFailed | Ended) -> Response:
        return from_failure(error).response()

    @app.exception_handler(Closing)
    async def closing(_request: Request, _error: Closing) -> Response:
        return ApiError(
            503, "the server is shutting down; ask another one, or try again later", retry_after=5
        ).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        return from_validation(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        messages = {
            404: f"there is no {request.url.path!r:.100} here; see /openapi.json",
            405: f"{request.url.path!r:.100} does not take {request.method}",
            400: "the body cannot be read as JSON",
        }
        response = ApiError(error.status_code, messages.get(error.status_code, str(error.detail))).response()
        response.headers.update(error.headers or {})
        return response
