"""The HTTP interface: one model, perhaps one collection, for many clients.

    POST /v1/embeddings          OpenAI's, and on demand the rationales
    POST /v1/chat/completions    OpenAI's: a GRACE model still talks
    GET  /v1/models              the model, and the same model by its text alone
    POST /search                 the collection's documents nearest to a query
    POST /explain                why one of them has its score
    POST /rerank, /v1/rerank     documents that come with the request, by their similarity to a query
    GET  /health /metrics /info  for load balancers, Prometheus, and people

Requests are checked and tokenised in a few threads of their own; only the batcher's thread generates.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from grace_core import __version__
from grace_core.errors import GraceError
from grace_core.geometry import Geometry
from grace_core.index import GraceIndex
from grace_core.model import GraceModel, Representations
from grace_core.pooling import Pooling
from grace_core.serving.chat_requests import complete, stream, submit
from grace_core.serving.columns import ServedColumns
from grace_core.serving.errors import ApiError, from_failure, from_validation, json_response
from grace_core.serving.failures import Closing, Ended, QueueFull, RunFailed
from grace_core.serving.gate import Gate
from grace_core.serving.limits import Limits
from grace_core.serving.retrieval import add_retrieval, flags
from grace_core.serving.schemas import ChatRequest, EmbeddingsRequest
from grace_core.serving.served import Served, unless_gone, usage
from grace_core.serving.texts import positions_of


def create_app(
    model: GraceModel,
    *,
    index: GraceIndex | None = None,
    keys: Sequence[str] = (),
    limits: Limits = Limits(),
    keep_queries: bool = False,
) -> FastAPI:
    """An ASGI app around ``model``, which belongs to it from now on; ``index`` must be of the same model.
    ``keep_queries``: what ``/search`` is asked is kept in the collection (:mod:`grace_core.asked`).

    Raises GraceError for an index of another model.
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
    columns = None if index is None else ServedColumns(served)

    @asynccontextmanager
    async def lifespan(_app: FastAPI):
        yield
        if columns is not None:
            await asyncio.to_thread(columns.close)
        await asyncio.to_thread(served.close)

    # no pages of documentation: they would load scripts from other hosts
    app = FastAPI(title="GRACE", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, keys=keys, limits=limits, metrics=served.metrics)
    app.state.served, app.state.columns = served, columns
    _handle_errors(app)
    _add_openai(app, served)
    add_retrieval(app, served, columns, keep_queries=keep_queries)
    _add_state(app, served)
    return app


def _check_room(model: GraceModel) -> None:
    positions, needed = positions_of(model), model.prompts.overhead + model.settings.max_new_tokens
    if needed >= positions:
        raise GraceError(
            f"prompt and rationale take {needed} positions without any text, and {model.name} has {positions}; lower max_new_tokens"
        )


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
        representations = await served.represent(
            request, asked.input, labels, rationale=wanted, truncate=asked.truncate
        )
        return await served.by_size(
            len(representations), _embeddings_response, asked, representations, pooling, served.geometry
        )

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
    asked: EmbeddingsRequest, representations: Representations, pooling: Pooling, geometry: Geometry
) -> Response:
    vectors = geometry.vectors(representations.sums, representations.counts, pooling, asked.input_type)
    as_text = asked.encoding_format == "base64"
    data = []
    for i, vector in enumerate(vectors):
        embedding = base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_text else vector
        item = {"object": "embedding", "index": i, "embedding": embedding}
        data.append(item | flags(asked, representations, i))
    return json_response({"object": "list", "data": data, "model": asked.model, "usage": usage(representations)})


def _model_object(served: Served, name: str) -> dict:
    return {"id": name, "object": "model", "created": served.created, "owned_by": "grace"}


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
