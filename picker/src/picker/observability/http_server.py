"""HTTP servers of the admin and metrics addresses: uvicorn, with bounds on what one client can take of the process."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator
from typing import Any, cast

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from picker.addresses import listening_socket

MAX_CONNECTIONS = 64
"""Open connections of one address. Prometheus needs one, and an operator a few."""

REQUEST_TIMEOUT_S = 30.0
"""From the accepted connection, or the end of an answer, to the end of the next answer. The largest answer takes some
seconds on a busy picker."""

KEEP_ALIVE_S = 15.0
"""Three of Prometheus's shortest usual intervals (5 s)."""

MAX_HEADER_BYTES = 16 << 10
"""Of a request that has not come whole; one read brings at most 256 KiB. Prometheus sends less than 1 KiB."""

MAX_BODY_BYTES = 1 << 10
"""A log level has at most seven bytes."""

STOP_TIMEOUT_S = 2
"""For answers in progress when the process stops. Prometheus retries at its next interval."""


class BoundedBodies:
    """ASGI middleware that rejects a large body without reading it: 413, or 411 where the length is not given."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rejection = _rejection(Headers(scope=scope)) if scope["type"] == "http" else None
        await (rejection or self._app)(scope, receive, send)


def _rejection(headers: Headers) -> PlainTextResponse | None:
    close = {"connection": "close"}
    if "transfer-encoding" in headers:
        return PlainTextResponse("a body needs a content-length\n", 411, close)
    length = headers.get("content-length", "0")
    # h11 takes only digits. Nineteen of them are more than any bound.
    if len(length) > 18 or int(length) > MAX_BODY_BYTES:
        return PlainTextResponse(f"the largest body is {MAX_BODY_BYTES} bytes\n", 413, close)
    return None


class _BoundedConnection(H11Protocol):
    """A connection that ends when it is slow, and when others need its place."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= MAX_CONNECTIONS:
            self._make_room()
        super().connection_made(transport)
        self._restart_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._restart_deadline()
        super().on_response_complete()

    def _restart_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        # abort, not close: close waits for a peer that does not read.
        self._deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    @property
    def _is_idle(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _make_room(self) -> None:
        """Abort a connection without a request, else any: silent connections lock nobody out."""
        others = [cast("_BoundedConnection", each) for each in self.connections]
        for each in (*(each for each in others if each._is_idle), *others):
            self.connections.discard(each)
            each.transport.abort()
            return


class _Server(uvicorn.Server):
    """uvicorn would handle the signals itself, and end the process its own way."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.asynccontextmanager
async def http_server(address: str, app: Any) -> AsyncGenerator[None]:
    """Serve the ASGI `app` on `address` (`IP:PORT`) inside the block. Raises OSError when the address is taken."""
    config = uvicorn.Config(
        app,
        http=_BoundedConnection,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        # Its warnings are about bad requests: one line for each, by a client's choice.
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(KEEP_ALIVE_S),
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    server = _Server(config)
    with listening_socket(address) as listening:
        serving = asyncio.create_task(server.serve([listening]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving
