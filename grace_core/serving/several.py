"""Several models behind one address: each has its own app and batcher, and a request goes to the one that its
``model`` names.

Requests that name none go to the first; so do those that name one that is not served, and it refuses them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from urllib.parse import parse_qs, unquote

import orjson
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from grace_core.errors import GraceError
from grace_core.serving.limits import Limits

ANY = ("/health", "/metrics", "/info")  # of one model with ?model=NAME


def serve_several(apps: Sequence[FastAPI], limits: Limits):
    """One ASGI app of those of :func:`grace_core.serving.app.create_app`.

    Raises GraceError if two models have the same name.
    """
    if len(apps) == 1:
        return apps[0]
    by_name: dict[str, FastAPI] = {}
    for app in apps:
        served = app.state.served
        for name in dict.fromkeys((*served.names, served.model.source)):
            if name in by_name:
                other = by_name[name].state.served.model.source
                raise GraceError(
                    f"{other} and {served.model.source} would both be served as {name!r}; rename the folder of one"
                )
            by_name[name] = app
    for app in apps:
        app.state.served.others = tuple(name for other in apps if other is not app for name in other.state.served.names)
    for app in (
        apps[1:] if apps[0].state.columns else ()
    ):  # requests that name a column name no model: they go to the first
        apps[0].state.columns.add(app.state.served)
    return _Several(list(apps), by_name, limits)


class _Several:
    def __init__(self, apps: list[FastAPI], by_name: dict[str, FastAPI], limits: Limits):
        self.apps, self.by_name, self.limits = apps, by_name, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        path, name = scope["path"], None
        if path == "/health" and not scope["query_string"]:
            failing = [app for app in self.apps if app.state.served.batcher.failure_reason()]
            await (failing or self.apps)[0](scope, receive, send)
            return
        if path.startswith("/v1/models/"):
            name = unquote(path.removeprefix("/v1/models/"))
        elif path in ANY:
            name = (parse_qs(scope["query_string"].decode("latin-1")).get("model") or [None])[0]
        elif scope["method"] == "POST":
            name, receive = await self._named(receive)
        await self.by_name.get(name, self.apps[0])(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """All apps begin together and end together."""
        await receive()
        async with AsyncExitStack() as stack:
            for app in self.apps:
                await stack.enter_async_context(app.router.lifespan_context(app))
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _named(self, receive: Receive) -> tuple[str | None, Receive]:
        """The ``model`` of a body, and a ``receive`` that gives the body again.

        What is too large or too slow is left to the app.
        """
        kept: deque[Message] = deque()
        size, whole = 0, False
        pending = None
        deadline = asyncio.get_running_loop().time() + self.limits.upload_seconds
        while not whole and size <= self.limits.max_body:
            pending = pending or asyncio.ensure_future(receive())
            done, _ = await asyncio.wait({pending}, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
            if not done:
                break
            message, pending = pending.result(), None
            kept.append(message)
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)

        async def again() -> Message:
            nonlocal pending
            if kept:
                return kept.popleft()
            if pending is not None:
                waited, pending = pending, None
                return await waited
            return await receive()

        try:
            body = orjson.loads(b"".join(message.get("body", b"") for message in kept)) if whole else None
        except orjson.JSONDecodeError:
            body = None
        name = body.get("model") if isinstance(body, dict) else None
        return name if isinstance(name, str) else None, again
