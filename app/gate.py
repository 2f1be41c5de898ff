"""What stands between the explorer and a network: who may enter, how large a request may be, and how often
one client may ask a model.

Gradio itself asks for the name and the password (a login page, cookies), and for them alone before anything
is answered; here are the accounts, and a plain ASGI middleware for the limits. A client is an address. Behind
a proxy on the same machine it is the one that the proxy names in X-Forwarded-For; other proxies have to be
named in FORWARDED_ALLOW_IPS, which uvicorn reads.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import os
import re
import socket
import time
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grace_core.errors import GraceError
from grace_core.serving.gate import limit_body

VARIABLE = "GRACE_APP_AUTH"
RATE = 120  # requests of one client that run a model, a minute, where others than this machine reach the explorer
LOGINS = 10  # attempts of one client, a minute
MAX_UPLOAD = "2gb"
MAX_BODY = 8 << 20  # bytes of a request that is no upload
ROOM = 1 << 20  # for what stands around the file in an upload
BODY_SECONDS, UPLOAD_SECONDS = 30.0, 3600.0  # for a request to arrive
UNITS = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
Accounts = Callable[[str, str], bool]


def runs_model(function: Callable) -> Callable:
    """Mark an event's, an endpoint's or a server function as one that takes a model's time: the rate limit
    counts its calls.
    """
    function.runs_model = True
    return function


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. Raises GraceError for a host name that nobody knows."""
    try:
        found = socket.getaddrinfo(host.removeprefix("[").removesuffix("]"), None)
    except (OSError, UnicodeError) as error:
        raise GraceError(f"--host is {host!r}, which is no address of this machine: {error}") from error
    return all(ipaddress.ip_address(address[0].partition("%")[0]).is_loopback for *_, address in found)


def read_accounts(given: str | None, file: str | Path | None) -> Accounts | None:
    """Whether a name and a password belong together, by ``given`` or a ``file`` of lines NAME:PASSWORD, else
    by $GRACE_APP_AUTH; None if there is none of them. Raises GraceError without repeating any of it."""
    if given and file:
        raise GraceError("got both --auth and --auth-file, expected one of them")
    if file:
        try:
            text, source = Path(file).read_text(encoding="utf-8"), f"--auth-file {file}"
        except (OSError, UnicodeDecodeError) as error:
            raise GraceError(
                f"--auth-file {file} cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from error
    elif given is not None:
        text, source = given, "--auth"
    elif VARIABLE in os.environ:
        text, source = os.environ[VARIABLE], f"${VARIABLE}"
    else:
        return None
    known = []
    for number, line in enumerate(text.splitlines(), 1):
        name, colon, password = line.partition(":")
        if line.strip() and not (name.strip() and colon and password):
            raise GraceError(f"{source}, line {number}: expected NAME:PASSWORD, neither of them empty")
        if line.strip():
            known.append(_digest(name.strip()) + _digest(password))
    if not known:
        raise GraceError(f"{source} is empty, expected a line NAME:PASSWORD for each account")

    def may_enter(name: str, password: str) -> bool:
        """Compares with every account, in a time that does not tell how much of one was right."""
        asked = _digest(name.strip()) + _digest(password)
        return sum([hmac.compare_digest(account, asked) for account in known]) > 0

    return may_enter


def read_size(given: str) -> int:
    """Bytes of a size such as 500mb. Raises GraceError."""
    found = re.fullmatch(r"(\d{1,6}) ?(kb|mb|gb)", given.strip().lower())
    if not found or not int(found[1]):
        raise GraceError(f"--max-upload is {given!r}, expected a size such as 500mb or 2gb")
    return int(found[1]) * UNITS[found[2]]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class Gate:
    """Wraps the app of ``demo``: refuses a body that is too large with 413, and what one client asks too
    often with 429.

    In any minute ``rate`` requests of a client that run a model (:func:`runs_model`) are answered, all of
    them if it is 0. An upload may have ``max_upload`` bytes.
    """

    def __init__(self, app: ASGIApp, *, demo: Any, rate: int, max_upload: int):
        self.app, self.demo, self.max_upload = app, demo, max_upload
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._rate = RateLimitItemPerMinute(rate, namespace="model") if rate else None
        self._logins = RateLimitItemPerMinute(LOGINS, namespace="login")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        route = path.partition("/gradio_api/")[2]
        if path.endswith("/login") and (wait := self._wait(self._logins, scope)):
            message = f"too many attempts to log in: {LOGINS} a minute are allowed, try again in {wait} s"
            await _refusal(message, wait)(scope, receive, send)
            return
        if route == "upload":
            most = self.max_upload + ROOM
            limited = limit_body(
                scope, receive, most=most, seconds=UPLOAD_SECONDS, too_large=f"an upload has at most {most:,} bytes"
            )
            await self.app(scope, limited, send)
            return
        too_large = f"the request has more than {MAX_BODY:,} bytes; ask for less at a time"
        limited = limit_body(scope, receive, most=MAX_BODY, seconds=BODY_SECONDS, too_large=too_large)
        try:
            body, again = await _read(limited)
        except HTTPException as error:
            await JSONResponse({"detail": error.detail}, error.status_code, error.headers)(scope, receive, send)
            return
        if self._rate and self._runs_model(route, body) and (wait := self._wait(self._rate, scope)):
            message = f"too many questions: {self._rate.amount} a minute are answered for one client, go on in {wait} s"
            # our scripts, which call server functions, get to see what these answer, and nothing of an answer
            # with another status
            answer = JSONResponse({"error": message}) if route == "component_server" else _refusal(message, wait)
            await answer(scope, receive, send)
            return
        await self.app(scope, again, send)

    def _wait(self, limit: RateLimitItem, scope: Scope) -> int:
        """Count a request, and tell in how many seconds the client may ask: at once, that is 0, or not yet."""
        client = _client(scope)
        if self._limiter.hit(limit, client):
            return 0
        return max(1, ceil(self._limiter.get_window_stats(limit, client).reset_time - time.time()))

    def _runs_model(self, route: str, body: bytes) -> bool:
        """Whether a request calls a function that :func:`runs_model` marked, read as leniently as Gradio does."""
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return bool(route) and route.startswith("component_server")  # which may be a form
        if not route or not isinstance(asked, dict):
            return False
        if route == "component_server":
            part = self.demo.blocks.get(_number(asked.get("component_id")))
            called = [getattr(part, str(asked.get("fn_name")), None)]
        elif route == "queue/join" or route.startswith(("run/", "api/", "call/")):
            name, number = route.rpartition("/")[2], _number(asked.get("fn_index"))
            called = [event.fn for event in self.demo.fns.values() if event._id == number or event.api_name == name]
        else:
            return False
        return any(getattr(function, "runs_model", False) for function in called)


def _client(scope: Scope) -> str:
    """The client's address; of IPv6 the network, as a client there may choose its address itself."""
    given = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(given.partition("%")[0])
    except ValueError:
        return given
    return given if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))


def _number(value: object) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


async def _read(receive: Receive) -> tuple[bytes, Receive]:
    """A request's body, and a ``receive`` that gives it once more."""
    messages: list[Message] = []
    while not messages or messages[-1].get("more_body"):
        messages.append(await receive())
    body, left = b"".join(message.get("body", b"") for message in messages), messages[::-1]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return body, again


def _refusal(message: str, wait: int) -> JSONResponse:
    """``detail`` is what Gradio's page shows."""
    return JSONResponse({"detail": message}, 429, {"Retry-After": str(wait)})
