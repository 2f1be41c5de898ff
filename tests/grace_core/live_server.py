"""A real server on a free port, in a thread of this process."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from grace_core.serving.app import create_app
from grace_core.serving.limits import Limits
from grace_core.serving.run import listen, make_server, url_of

SMALL = {"max_texts": 16, "max_queue": 32, "max_characters": 2000, "max_body": 100_000, "upload_seconds": 1.0}


@dataclass
class Live:
    """A running server. ``ask`` sends JSON and returns (status, body)."""

    url: str
    app: Any
    server: Any
    http: httpx.Client

    @property
    def batcher(self):
        return self.app.state.served.batcher

    def ask(self, path: str, body: Any = None, **options) -> tuple[int, Any]:
        answer = self.http.get(path, **options) if body is None else self.http.post(path, json=body, **options)
        return answer.status_code, answer.json()

    def connect(self) -> socket.socket:
        address = httpx.URL(self.url)
        return socket.create_connection((address.host, address.port), timeout=20)


@contextmanager
def live(model, *, index=None, keys=(), **limits):
    chosen = Limits(**SMALL | limits)
    app = create_app(model, index=index, keys=keys, limits=chosen)
    server, bound = make_server(app, chosen), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        with httpx.Client(base_url=url_of(bound), timeout=60, trust_env=False) as http:
            yield Live(url_of(bound), app, server, http)
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()
