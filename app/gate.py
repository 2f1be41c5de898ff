"""Access to the explorer from a network: who may enter, the size of requests, and how often a client may run a
model.

Gradio itself asks for name and password (a login page, cookies) and answers nothing else before; this module has
the accounts, and an ASGI middleware for the limits. A client is an address. Behind a proxy on the same machine it
is the address that the proxy gives in X-Forwarded-For; other proxies have to be listed in FORWARDED_ALLOW_IPS,
which uvicorn reads.
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
RATE = 120  # requests a minute of one client that run a model, if other machines can reach the explorer
LOGINS = 10  # attempts a minute of one client
MAX_UPLOAD = "2gb"
MAX_BODY = 8 << 20  # bytes of a request that is not an upload
ROOM = 1 << 20  # bytes of an upload besides the file
BODY_SECONDS, UPLOAD_SECONDS = 30.0, 3600.0  # for a request to arrive
UNITS = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
Accounts = Callable[[str, str], bool]


def runs_model(function: Callable) -> Callable:
    """Marks an event handler, endpoint or server function as one that runs a model, so that the rate limit counts
    its calls.
    """
    function.runs_model = True
    return function


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. Raises GraceError for an unknown host name."""
    try:
        addresses = socket.getaddrinfo(host.removeprefix("[").removesuffix("]"), None)
    except (OSError, UnicodeError) as error:
        raise GraceError(f"--host is {host!r}, which is no address of this machine: {error}") from error
    return all(ipaddress.ip_address(address[0].partition("%")[0]).is_loopback for *_, address in addresses)


def read_accounts(option: str | None, file: str | Path | None) -> Accounts | None:
    """A function that checks a name and a password against lines NAME:PASSWORD of ``option``, of a ``file``, or
    else of $GRACE_APP_AUTH; None if none of them is given. Raises GraceError, which repeats no password."""
    if option and file:
        raise GraceError("got both --auth and --auth-file, expected one of them")
    if file:
        try:
            text, source = Path(file).read_text(encoding="utf-8"), f"--auth-file {file}"
        except (OSError, UnicodeDecodeError) as error:
            raise GraceError(
                f"--auth-file {file} cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from error
    elif option is not None:
        text, source = option, "--auth"
    elif VARIABLE in os.environ:
        text, source = os.environ[VARIABLE], f"${VARIABLE}"
    else:
        return None
    digests = []
    for number, line in enumerate(text.splitlines(), 1):
        name, colon, password = line.partition(":")
        if line.strip() and not (name.strip() and colon and password):
            raise GraceError(f"{source}, line {number}: expected NAME:PASSWORD, neither of them empty")
        if line.strip():
            digests.append(_digest(name.strip()) + _digest(password))
    if not digests:
        raise GraceError(f"{source} is empty, expected a line NAME:PASSWORD for each account")

    def may_enter(name: str, password: str) -> bool:
        """Compares with every account in constant time, which reveals nothing about an account."""
        entered = _digest(name.strip()) + _digest(password)
        return sum([hmac.compare_digest(account, entered) for account in digests]) > 0

    return may_enter


def read_size(size: str) -> int:
    """Bytes of a size such as 500mb. Raises GraceError."""
    match = re.fullmatch(r"(\d{1,6}) ?(kb|mb|gb)", size.strip().lower())
    if not match or not int(match[1]):
        raise GraceError(f"--max-upload is {size!r}, expected a size such as 500mb or 2gb")
    return int(match[1]) * UNITS[match[2]]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class Gate:
    """Wraps the app of ``demo``: answers a body that is too large with 413, and too many requests of a client with
    429.

    A client may send ``rate`` requests a minute that run a model (:func:`runs_model`), any number if it is 0. An
    upload may have ``max_upload`` bytes.
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
            # our scripts see the answers of server functions only if their status is 200
            answer = JSONResponse({"error": message}) if route == "component_server" else _refusal(message, wait)
            await answer(scope, receive, send)
            return
        await self.app(scope, again, send)

    def _wait(self, limit: RateLimitItem, scope: Scope) -> int:
        """Counts a request; the seconds that the client has to wait, 0 if it may send it now."""
        client = _client(scope)
        if self._limiter.hit(limit, client):
            return 0
        return max(1, ceil(self._limiter.get_window_stats(limit, client).reset_time - time.time()))

    def _runs_model(self, route: str, body: bytes) -> bool:
        """Whether a request calls a function marked by :func:`runs_model`; parsed as leniently as by Gradio."""
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            return bool(route) and route.startswith("component_server")  # its body may be a form
        if not route or not isinstance(request, dict):
            return False
        if route == "component_server":
            part = self.demo.blocks.get(_number(request.get("component_id")))
            functions = [getattr(part, str(request.get("fn_name")), None)]
        elif route == "queue/join" or route.startswith(("run/", "api/", "call/")):
            name, number = route.rpartition("/")[2], _number(request.get("fn_index"))
            functions = [event.fn for event in self.demo.fns.values() if event._id == number or event.api_name == name]
        else:
            return False
        return any(getattr(function, "runs_model", False) for function in functions)


def _client(scope: Scope) -> str:
    """The client's address; its /64 network for IPv6, where a client can choose addresses within it."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return host if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))


def _number(value: object) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


async def _read(receive: Receive) -> tuple[bytes, Receive]:
    """A request's body, and a ``receive`` that gives the body again."""
    messages: list[Message] = []
    while not messages or messages[-1].get("more_body"):
        messages.append(await receive())
    body, pending = b"".join(message.get("body", b"") for message in messages), messages[::-1]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return body, again


def _refusal(message: str, wait: int) -> JSONResponse:
    """A 429 answer with ``message`` as ``detail``, which Gradio's page shows."""
    return JSONResponse({"detail": message}, 429, {"Retry-After": str(wait)})
