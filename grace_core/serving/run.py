"""Serve an app at an address until SIGTERM or Ctrl+C, and finish what was accepted before that."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from grace_core.errors import GraceError
from grace_core.serving.limits import Limits

CONNECTIONS = 1000  # more get 503 at once
KEEP_ALIVE = (
    75  # seconds; longer than the 60 of common proxies, which would else send into a connection that is being closed
)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises GraceError if the address is not to be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise GraceError(
            f"cannot serve at {host}:{port} ({error}); the port is taken or not allowed: give another --port"
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Ends with status 0 on SIGTERM and SIGINT, where uvicorn raises the signal again; a second signal ends
    it at once.
    """

    def handle_exit(self, sig: int, frame) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


def make_server(app, limits: Limits) -> Server:
    """A server for ``app``; ``run(sockets=[…])`` serves until it is told to end."""
    return Server(
        uvicorn.Config(
            app,
            http=_patient(limits.upload_seconds),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=round(limits.shutdown_seconds),
        )
    )


def _patient(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, but a connection whose request head is not there after ``seconds`` is closed."""

    class Connection(H11Protocol):
        _head: asyncio.TimerHandle | None = None

        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc) -> None:
            super().connection_lost(exc)
            self._forget()

        def _watch(self) -> None:
            """The clock runs from the first byte of a head to its last; uvicorn's own runs while nothing is
            sent between requests.
            """
            if self.conn.their_state is not h11.IDLE:
                self._forget()
            elif self._head is None:
                self._head = self.loop.call_later(seconds, self.transport.close)

        def _forget(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    return Connection


@contextmanager
def cleaned_up_on_sigterm() -> Iterator[None]:
    """Until the server listens to it, SIGTERM ends the program as an exception would: killed, it would leave
    vLLM's processes behind.
    """
    if threading.current_thread() is not threading.main_thread():  # where signals cannot be listened to
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def serve(app, bound: socket.socket, limits: Limits, *, announce: Callable[[str], None]) -> None:
    """Serve on ``bound`` until a signal; returns when everything accepted before it is answered."""
    bound.listen(2048)
    announce(url_of(bound))
    make_server(app, limits).run(sockets=[bound])
