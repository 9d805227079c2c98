"""The HTTP server of the admin and metrics addresses: uvicorn, with limits on a client's share of the process."""

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
"""Open connections of one address. Judgement: Prometheus needs one, and an operator a few."""

REQUEST_TIMEOUT_S = 30.0
"""From the accepted connection, or the end of a response, to the end of the next response. Judgement: the largest
response takes some seconds on a busy picker."""

KEEP_ALIVE_S = 15.0
"""Three of Prometheus's shortest usual intervals (5 s)."""

MAX_HEADER_BYTES = 16 << 10
"""Of an incomplete request. One read adds at most 256 KiB. Judgement: Prometheus sends less than 1 KiB."""

MAX_BODY_BYTES = 1 << 10
"""Of a request. The only body is a log level of at most seven bytes."""

STOP_TIMEOUT_S = 2
"""For responses in progress when the process stops. Judgement: Prometheus retries at its next interval."""


class BoundedBodies:
    """ASGI middleware that rejects a large body without reading it. Status 413, or 411 without a content-length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rejection = _rejection(Headers(scope=scope)) if scope["type"] == "http" else None
        await (rejection or self._app)(scope, receive, send)


def _rejection(headers: Headers) -> PlainTextResponse | None:
    close = {"connection": "close"}
    if "transfer-encoding" in headers:
        return PlainTextResponse("a request body needs a content-length\n", 411, close)
    length = headers.get("content-length", "0")
    # h11 accepts only digits. A number of 19 digits exceeds any limit.
    if len(length) > 18 or int(length) > MAX_BODY_BYTES:
        return PlainTextResponse(f"the request body exceeds {MAX_BODY_BYTES} bytes\n", 413, close)
    return None


class _BoundedConnection(H11Protocol):
    """A connection that is aborted when a request takes too long, or when new connections exceed the limit."""

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
        # Not `close`, which waits for a peer that does not read.
        self._deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    @property
    def _is_idle(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _make_room(self) -> None:
        """Aborts an idle connection, else any, so that silent connections do not block new ones."""
        others = [cast("_BoundedConnection", connection) for connection in self.connections]
        for connection in (*(other for other in others if other._is_idle), *others):
            self.connections.discard(connection)
            connection.transport.abort()
            return


class _Server(uvicorn.Server):
    """A server that does not handle signals: uvicorn's handlers would end the process without a drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.asynccontextmanager
async def http_server(address: str, app: Any) -> AsyncGenerator[None]:
    """Serves the ASGI `app` on `address` (`IP:PORT`) inside the block. Raises OSError if the address is in use."""
    config = uvicorn.Config(
        app,
        http=_BoundedConnection,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        # uvicorn warns about each bad request, so clients could fill the log.
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
