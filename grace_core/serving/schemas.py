"""What clients may send.

Strict types, no unknown fields; what OpenAI has and this server has not is refused with the reason.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

from grace_core.geometry import Role
from grace_core.pooling import Pooling

UNPAIRED = re.compile("[\ud800-\udfff]")  # halves of surrogate pairs: JSON can carry them, UTF-8 cannot


def repaired(text: str) -> str:
    return UNPAIRED.sub("\ufffd", text)


def _described(value: Any) -> str:
    return (
        f"{type(value).__name__} {value!r:.40}"
        if isinstance(value, (str, int, float, bool, type(None)))
        else type(value).__name__
    )


def _texts_or_ids(value: Any) -> list[str] | list[list[int]]:
    """OpenAI's four forms of ``input`` as a list of texts or of token ids."""
    if isinstance(value, str):
        return [repaired(value)]
    if not isinstance(value, list):
        raise ValueError(
            f"expected a text, a list of texts, a list of token ids or a list of lists of token ids, got {_described(value)}"
        )
    if not value:
        raise ValueError("the list is empty; send at least one text")
    if _are_ids(value):
        return [value]
    texts = isinstance(value[0], str)
    for position, item in enumerate(value):
        if texts and not isinstance(item, str):
            raise ValueError(f"[{position}] must be a text as the first one is, got {_described(item)}")
        if not texts and not (isinstance(item, list) and _are_ids(item)):
            raise ValueError(
                f"[{position}] must be a text or a list of token ids (whole numbers), got {_described(item)}"
            )
        if not item:
            raise ValueError(f"[{position}] is empty; an empty text has no embedding, leave it out")
    return [repaired(item) for item in value] if texts else value


def _are_ids(value: list) -> bool:
    return all(type(item) is int for item in value)


def _documents(value: Any) -> list[str]:
    """Texts, or objects with a text as Cohere's and Jina's clients send them."""
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"expected a list of at least one text, got {'an empty list' if value == [] else _described(value)}"
        )
    texts = [item.get("text") if isinstance(item, dict) else item for item in value]
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"[{position}] must be a text or an object with a 'text', got {_described(value[position])}"
            )
    return [repaired(text) for text in texts]


def _content(value: Any) -> str:
    """A message's text, or the texts of its parts."""
    if isinstance(value, str):
        return repaired(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f'expected a text, or a list of parts {{"type": "text", "text": …}}, got {_described(value)}')
    for position, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f'[{position}] must be {{"type": "text", "text": …}}: this model reads text only')
    return repaired("".join(part["text"] for part in value))


def _stops(value: Any) -> list[str]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError(f"expected a text, or a list of at most four, none of them empty, got {_described(value)}")
    return stops


Inputs = Annotated[
    list[str] | list[list[int]],
    PlainValidator(_texts_or_ids, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
]
Documents = Annotated[list[str], PlainValidator(_documents, json_schema_input_type=list[str | dict[str, Any]])]
Content = Annotated[str, PlainValidator(_content, json_schema_input_type=str | list[dict[str, str]])]
Stops = Annotated[list[str], PlainValidator(_stops, json_schema_input_type=str | list[str] | None)]
Text = Annotated[str, AfterValidator(repaired)]
PoolingName = Literal[Pooling.TEXT.value, Pooling.FULL.value]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _nulls_are_defaults(cls, value: Any) -> Any:
        """Clients send null for what they leave open: such a field has its default."""
        if not isinstance(value, dict):
            return value
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: item for name, item in value.items() if item is not None or name not in optional}


class EmbeddingsRequest(Request):
    """As OpenAI's, with four fields more: ``rationale``, ``pooling``, ``truncate`` and ``input_type``."""

    input: Inputs
    model: str
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = None
    user: str | None = None
    rationale: bool = Field(False, description="Add to every item the rationale that the model wrote about the text.")
    pooling: PoolingName | None = Field(None, description="'text' embeds the text alone; default 'text+rationale'.")
    truncate: bool = Field(
        False, description="Cut a text that is too long, where it would be refused; its item says text_truncated."
    )
    input_type: Role = Field(
        Role.DOCUMENT,
        strict=False,
        description="What the texts are in a search: it matters where the geometry is calibrated.",
    )


BY = Field(
    "best", description="In a collection of passages: a document ranks by its best passage, or by the sum of all."
)
COLUMN = Field(
    None,
    description="What ranks, in place of model and pooling: M, M:text, bm25, st:NAME, 0.7*A+0.3*B, rrf(A,B).",
)


class SearchRequest(Request):
    """A query for the collection that is served."""

    query: Text
    k: int = Field(10, ge=1)
    filter: Text | None = Field(
        None, description="Only documents that satisfy it, such as \"year > 2000 and kind in ('river', 'lake')\"."
    )
    by: Literal["best", "sum"] = BY
    column: Text | None = COLUMN
    model: str | None = None
    pooling: PoolingName | None = None
    truncate: bool = False


class ExplainRequest(Request):
    """Why a document of the collection has its score for a query."""

    query: Text
    id: Text = Field(description="A document's id, as /search gives it.")
    tokens: bool = Field(False, description="Open sentences into their tokens.")
    by: Literal["best", "sum"] = BY
    column: Text | None = COLUMN
    model: str | None = None
    pooling: PoolingName | None = None
    truncate: bool = False


class RerankRequest(Request):
    """As Cohere's and Jina's: documents that come with the request, sorted by their similarity to the query."""

    query: Text
    documents: Documents
    model: str | None = None
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False
    rationale: bool = Field(False, description="Add the rationales of query and documents.")
    pooling: PoolingName | None = None
    truncate: bool = False


class Message(Request):
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = None


class StreamOptions(Request):
    include_usage: bool = False


class ChatRequest(Request):
    """As OpenAI's, for one answer of plain text."""

    messages: list[Message] = Field(min_length=1, max_length=1024, fail_fast=True)
    model: str
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stops = Field(default_factory=list)
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # what clients send as a matter of course: taken where it asks for nothing, else refused
    presence_penalty: float | None = Field(None, ge=0, le=0)
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    logprobs: Literal[False] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    user: str | None = None
