"""The head of the explorer's page: an icon in the page itself.

Gradio has the browser ask for ``/favicon.ico`` and ``/manifest.json`` at the server's root. Behind a proxy
that shows the explorer below a path, something else is there, or nothing.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

ICON = (
    b"<link rel='icon' href=\"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
    b"<rect width='16' height='16' rx='4' fill='%230f172a'/><circle cx='6' cy='6' r='2.5' fill='%2360a5fa'/>"
    b"<circle cx='10.5' cy='10' r='2.5' fill='%23fb923c'/></svg>\">"
)


class Head:
    """Wraps the app, and changes the page alone."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"].strip("/"):
            await self.app(scope, receive, send)
            return
        start: Message = {}

        async def changed(message: Message) -> None:  # the page comes in one piece
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            body = (
                message["body"]
                .replace(b"<head>", b"<head>" + ICON, 1)
                .replace(b'href="/manifest.json"', b'href="manifest.json"', 1)
            )
            headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
            await send(start | {"headers": [*headers, (b"content-length", str(len(body)).encode())]})
            await send(message | {"body": body})

        await self.app(scope, receive, changed)
