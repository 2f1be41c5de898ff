"""What stands before every request: keys, size and time limits, and the count of what was answered. Plain ASGI.

It is no ``BaseHTTPMiddleware``: that one hides from the endpoint that a client has gone away.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grace_core.serving.errors import ApiError
from grace_core.serving.limits import Limits
from grace_core.serving.metrics import Metrics

log = logging.getLogger("grace.serve")
OPEN = ("/health", "/metrics")  # what a load balancer and a Prometheus ask for without a key
GONE = 499  # in the metrics, as nginx has it: the client went away before its answer
DISCARDED = 8  # a body of up to so many times the limit is read to its end, since a client that still sends does not see the answer


class Gate:
    """Wraps the app. Without ``keys`` all may pass."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[str], limits: Limits, metrics: Metrics):
        self.app, self.limits, self.metrics = app, limits, metrics
        self._keys = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, code = time.perf_counter(), GONE

        async def counted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        self.metrics.active.inc()
        try:
            if scope["path"] in OPEN or self._may_pass(scope):
                most, seconds = self.limits.max_body, self.limits.upload_seconds
                too_large = f"the request has more than {most:,} bytes; send its texts in several requests"
                await self.app(
                    scope, limit_body(scope, receive, most=most, seconds=seconds, too_large=too_large), counted
                )
            else:
                error = ApiError(
                    401, "a valid API key is needed: send it as 'Authorization: Bearer KEY'", code="invalid_api_key"
                )
                await error.response()(scope, receive, counted)
        except Exception:
            log.exception("%s %s failed", scope["method"], _route(scope))
            if code == GONE:  # nothing was sent yet
                await ApiError(500, "the server failed on this request; its log says why").response()(
                    scope, receive, counted
                )
        finally:
            self.metrics.active.dec()
            self.metrics.requests.labels(_route(scope), code).inc()
            self.metrics.seconds.labels(_route(scope)).observe(time.perf_counter() - began)

    def _may_pass(self, scope: Scope) -> bool:
        """Compares with every key, in a time that does not tell how much of one was right."""
        if not self._keys:
            return True
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, given = header.partition(b" ")
        matches = [hmac.compare_digest(_digest(given.strip()), key) for key in self._keys]
        return scheme.lower() == b"bearer" and any(matches)


def limit_body(scope: Scope, receive: Receive, *, most: int, seconds: float, too_large: str) -> Receive:
    """``receive`` that refuses a body of more than ``most`` bytes with 413, or one that takes longer than
    ``seconds`` to arrive.
    """
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    declared = int(length) if length.isdigit() and len(length) < 19 else 0
    deadline = time.monotonic() + seconds
    size, whole = 0, False

    async def limited() -> Message:
        nonlocal size, whole
        if whole:  # what follows is the news that the client has gone
            return await receive()
        if declared > DISCARDED * most:
            raise _closing(413, too_large)
        while True:
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise _closing(408, f"the request did not arrive within {seconds:g} s; send it faster") from None
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if size <= most:
                return message
            if whole or size > DISCARDED * most:
                raise _closing(413, too_large)

    return limited


def _closing(status: int, message: str) -> HTTPException:
    """FastAPI passes on no other exception of a body that is being read. The connection is of no more use."""
    return HTTPException(status, message, {"Connection": "close"})


def _route(scope: Scope) -> str:
    """The path as the app declares it, so that clients cannot make up labels."""
    return getattr(scope.get("route"), "path", "other")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
