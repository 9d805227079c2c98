"""Keep-alive connections to one server, each with one request in flight at a time.

It uses asyncio protocols directly, because the client must not limit a benchmark. A general HTTP client needs half as
much CPU time again for each chunk of a stream, kernel included (figures: docs/benchmark.md)."""

import asyncio
import ssl
import time
from types import TracebackType
from typing import Self, cast
from urllib.parse import SplitResult

import httptools

from benchmark.load.events import EventReader

OK = 200
_MAX_ERROR_BYTES = 16 << 10
"""Bytes kept of an error response's body, for the error message."""
_FRAMING_HEADERS = frozenset((b"content-length", b"transfer-encoding"))


class RequestFailed(Exception):
    """No complete response arrived. The message is shown to the user."""


class _StaleConnection(RequestFailed):
    """The server closed an idle connection just as it was used again. The request may be sent again."""


class Response:
    """A response, filled while it arrives."""

    __slots__ = ("body", "events", "status")

    def __init__(self, keep_text: bool) -> None:
        self.status: int | None = None
        self.events = EventReader(keep_text)
        self.body = b""
        """The beginning of the body, if the status is not 200."""


class _Connection(asyncio.Protocol):
    """One connection. The parser calls the methods named `on_*`; the transport calls the other public methods."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._response: Response | None = None
        self._complete: asyncio.Future[None] | None = None
        self._now_s = 0.0
        self._received = False
        self._served = 0
        self._framed = False
        self.reusable = False

    async def send(self, request: bytes, response: Response) -> None:
        """Sends a request and waits for the end of its response. Raises RequestFailed."""
        self._response = response
        self._received = False
        self._complete = asyncio.get_running_loop().create_future()
        if self._transport is None:
            raise _StaleConnection("the connection was closed")
        self._transport.write(request)
        try:
            await self._complete
        finally:
            self._complete = None

    def close(self) -> None:
        """Closes the connection without waiting for pending data."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, failure: RequestFailed) -> None:
        self.reusable = False
        if self._complete is not None and not self._complete.done():
            self._complete.set_exception(failure)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.reusable = True

    def data_received(self, data: bytes) -> None:
        self._now_s = time.perf_counter()
        self._received = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(RequestFailed(f"the response is not HTTP: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._served and not self._received:
            self._fail(_StaleConnection("the connection was closed"))
        elif self._response is not None and self._response.status is not None and not self._framed and exc is None:
            self.on_message_complete()
        else:
            self._fail(RequestFailed(f"the connection was closed before the response was complete{_reason(exc)}"))
        self.reusable = False

    def on_message_begin(self) -> None:
        self._framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in _FRAMING_HEADERS:
            self._framed = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._response is not None and status >= OK:
            self._response.status = status

    def on_body(self, body: bytes) -> None:
        response = self._response
        if response is None:
            return
        if response.status == OK:
            response.events.feed(body, self._now_s)
        elif len(response.body) < _MAX_ERROR_BYTES:
            response.body += body

    def on_message_complete(self) -> None:
        # An informational response (1xx) precedes the final one.
        if self._response is None or self._response.status is None:
            return
        self._response = None
        self._served += 1
        self.reusable = self._parser.should_keep_alive() and self._framed
        if self._complete is not None and not self._complete.done():
            self._complete.set_result(None)


class Connections:
    """A pool of connections to one server. It grows to the number of concurrent requests; idle ones are reused."""

    def __init__(self, url: SplitResult) -> None:
        self._host = url.hostname or ""
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if url.scheme == "https" else None
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._open:
            connection.close()

    async def send(self, request: bytes, response: Response) -> None:
        """Sends a request and waits for the end of its response, which fills `response` as it arrives. Raises
        RequestFailed."""
        while self._idle:
            connection = self._idle.pop()
            try:
                await self._send_on(connection, request, response)
            except _StaleConnection:
                continue
            return
        await self._send_on(await self._connect(), request, response)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._ssl)
        except OSError as error:
            raise RequestFailed(f"no connection to {self._host}:{self._port}: {error}") from None
        self._open.add(connection)
        return connection

    async def _send_on(self, connection: _Connection, request: bytes, response: Response) -> None:
        try:
            await connection.send(request, response)
        except BaseException:
            connection.close()
            raise
        finally:
            if connection.reusable:
                self._idle.append(connection)
            else:
                connection.close()
                self._open.discard(connection)


def _reason(exc: Exception | None) -> str:
    return f": {exc}" if exc is not None else ""
