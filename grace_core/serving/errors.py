"""Errors as OpenAI's clients expect them: ``{"error": {"message", "type", "param", "code"}}`` with a status."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from grace_core.serving.failures import Ended

TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}


class ApiError(Exception):
    """Ends a request with ``status`` and one line for whoever sent it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    def as_dict(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return json_response(self.as_dict(), self.status, headers)


def from_failure(error: Exception) -> ApiError:
    """What is told when a run of the model failed: why, only if it concerns more than this request."""
    if isinstance(error, Ended):
        return ApiError(503, str(error), code="model_ended")
    return ApiError(500, "the model failed on this request; the server's log says why")


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """``value`` as JSON; numpy arrays are numbers, float32 written as short as it can be read back exactly."""
    return Response(to_json(value), status, headers, media_type="application/json")


def to_json(value: Any) -> bytes:
    """orjson, since the standard library takes seconds for a large request's vectors and stops all other
    clients meanwhile.
    """
    return orjson.dumps(value, default=str, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def from_validation(findings: list[dict[str, Any]]) -> ApiError:
    """The first of pydantic's findings as one line that names the field and never repeats what was sent at length."""
    error = findings[0]
    # pydantic also names the member of a union that it tried; the client knows of none
    place = [str(part) for part in error["loc"] if part != "body" and (isinstance(part, int) or part.isidentifier())]
    kind, name = error["type"], ".".join(place)[:100]
    if kind == "json_invalid":
        return ApiError(
            400, f"the body is not JSON: {error['ctx']['error']} at character {place[0]}", code="invalid_json"
        )
    if kind == "extra_forbidden":
        unknown = f"{error['loc'][-1]!r:.60}"
        return ApiError(
            400,
            f"unknown field {unknown}; leave it out, or check its spelling",
            param=name or None,
            code="unknown_parameter",
        )
    if not place:
        return ApiError(
            400, "the body must be a JSON object, sent with Content-Type: application/json", code="invalid_json"
        )
    if kind == "missing":
        return ApiError(400, f"{name!r} is missing", param=name, code="missing_required_parameter")
    message = error["msg"].removeprefix("Value error, ")
    line = f"{name}{'' if message.startswith('[') else ': '}{message}"
    return ApiError(400, line[:500], param=name, code="invalid_type" if kind.endswith("_type") else "invalid_value")
