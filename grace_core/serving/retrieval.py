"""``/search`` and ``/explain`` over the collection that is served, and ``/rerank`` of documents that come with a request."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.responses import Response

from grace_core.asked import keep_query
from grace_core.columns.column import Column
from grace_core.columns.documents import explain, is_split
from grace_core.columns.names import Single
from grace_core.errors import GraceError
from grace_core.geometry import Role
from grace_core.model import Representations
from grace_core.pooling import Pooling
from grace_core.ranking import dots, order
from grace_core.serving.columns import ServedColumns
from grace_core.serving.errors import ApiError, json_response
from grace_core.serving.schemas import EmbeddingsRequest, ExplainRequest, RerankRequest, SearchRequest
from grace_core.serving.served import Served, usage


def add_retrieval(app: FastAPI, served: Served, columns: ServedColumns | None, *, keep_queries: bool = False) -> None:
    @app.post("/search")
    async def search(asked: SearchRequest, request: Request) -> Response:
        column = await chosen(asked)
        if asked.k > served.limits.max_k:
            raise ApiError(400, f"k must be at most {served.limits.max_k}, got {asked.k}", param="k")
        try:
            among = None if asked.filter is None else await columns.run(column.rows.selections.of, asked.filter)
        except GraceError as error:
            raise ApiError(400, str(error), param="filter") from None
        read = await columns.read(request, column, asked.query, truncate=asked.truncate)
        hits = await columns.run(lambda: column.hits(asked.query, asked.k, where=asked.filter, by=asked.by))
        if keep_queries:
            await columns.run(keep_query, columns.collection.folder, asked.query)
        return json_response(
            named(asked, column)
            | read.as_dict()
            | {"results": [hit.as_dict() for hit in hits]}
            | ({} if among is None else {"filtered": len(among)})
        )

    @app.post("/explain")
    async def explain_document(asked: ExplainRequest, request: Request) -> Response:
        column = await chosen(asked)
        collection, split = columns.collection, is_split(columns.collection, asked.id)
        if asked.id not in column.rows.row and not split:
            message = f"{collection.name} has no document {asked.id[:80]!r} with a text; {collection.unknown(asked.id)}"
            raise ApiError(404, message, param="id", code="document_not_found")
        if asked.by == "sum" and (not split or len(collection.passages[asked.id]) > served.limits.max_texts):
            message = (
                f"a sum is over at most {served.limits.max_texts} passages of a document, and {asked.id[:80]!r} has "
            )
            message += (
                f"{len(collection.passages[asked.id])}; take them one by one" if split else "none; give a document's id"
            )
            raise ApiError(400, message, param="by")
        read = await columns.read(request, column, asked.query, truncate=asked.truncate)
        explained = await columns.run(lambda: explain(column, asked.query, asked.id, by=asked.by))
        return json_response(named(asked, column) | read.as_dict() | explained.as_dict(tokens=asked.tokens))

    async def chosen(asked: SearchRequest | ExplainRequest) -> Column:
        """The column that a request names, or that of the served model. Raises ApiError."""
        if columns is None:
            raise ApiError(
                404, "no collection is served here; start the server with --collection", code="no_collection"
            )
        if asked.by == "sum" and columns.collection.chunk is None:
            message = f"{columns.collection.name} is of whole documents, and 'sum' is for passages; leave it out"
            raise ApiError(400, message, param="by")
        if asked.column is not None:
            given = next((name for name in ("model", "pooling") if getattr(asked, name) is not None), None)
            if given is not None:
                message = f"column names the model and what of it is compared: leave {given} out, or column"
                raise ApiError(400, message, param=given)
            return await columns.open(asked.column)
        index = served.index
        pooling = served.pooling(asked.model, asked.pooling, index.default_pooling)
        if pooling is Pooling.FULL and index.default_pooling is Pooling.TEXT:
            raise ApiError(
                400,
                f"{index.collection.name} was built without rationales; search it with pooling 'text'",
                param="pooling",
            )
        return await columns.open(Single("grace", index.model_name, pooling is Pooling.FULL))

    def named(asked: SearchRequest | ExplainRequest, column: Column) -> dict:
        """What ranks; by ``model`` too where the request did not name a column."""
        model = {} if asked.column is not None else {"model": served.names[0 if column.reads_rationale else 1]}
        return {**model, "column": column.id, "collection": columns.collection.name}

    @app.post("/rerank")
    @app.post("/v1/rerank", include_in_schema=False)
    async def rerank(asked: RerankRequest, request: Request) -> Response:
        pooling = served.pooling(asked.model, asked.pooling)
        wanted = pooling is Pooling.FULL or asked.rationale
        texts, labels = (
            [asked.query, *asked.documents],
            ["query", *(f"documents[{i}]" for i in range(len(asked.documents)))],
        )
        representations = await served.represent(request, texts, labels, rationale=wanted, truncate=asked.truncate)
        geometry, (sums, counts) = served.geometry, (representations.sums, representations.counts)
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
            results.append(result | flags(asked, representations, i + 1))
        payload = {"model": asked.model or served.names[0], "results": results, "usage": usage(representations)}
        return json_response(payload | flags(asked, representations, 0))


def flags(asked: EmbeddingsRequest | RerankRequest, representations: Representations, i: int) -> dict:
    """What was asked for of text ``i`` besides its vector or score: the rationale, and whether it or the text
    was cut.
    """
    payload = (
        {"rationale": representations.rationales[i], "truncated": bool(representations.truncated[i])}
        if asked.rationale
        else {}
    )
    return payload | (
        {"text_truncated": bool(representations.text_truncated[i])} if asked.rationale or asked.truncate else {}
    )
