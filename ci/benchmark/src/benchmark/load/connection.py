"""Keep-alive connections to one server, each with one request on its way at a time.

Written on the event loop's own protocols because a general HTTP client costs half as much again for each chunk of a
stream, the kernel's part included, and the client must not be what limits a benchmark (docs/benchmark.md has the
figures)."""

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
"""Of the body of a refusal, to be told to people."""
_FRAMING_HEADERS = frozenset((b"content-length", b"transfer-encoding"))


class RequestFailed(Exception):
    """No complete answer came. The message is for people."""


class _WentStale(RequestFailed):
    """The server closed an idle connection at the moment at which it was used again. Nothing has happened yet."""


class Answer:
    """What is known of an answer while it comes, and after."""

    __slots__ = ("body", "events", "status")

    def __init__(self, keep_text: bool) -> None:
        self.status: int | None = None
        self.events = EventReader(keep_text)
        self.body = b""
        """Of an answer with another status than 200, its beginning."""


class _Connection(asyncio.Protocol):
    """Named `on_*`: what the parser calls; the rest of the public methods: what the transport calls."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._complete: asyncio.Future[None] | None = None
        self._now_s = 0.0
        self._received = False
        self._served = 0
        self._framed = False
        self.reusable = False

    async def ask(self, request: bytes, answer: Answer) -> None:
        """Send a request and wait for the end of its answer. Raises RequestFailed."""
        self._answer = answer
        self._received = False
        self._complete = asyncio.get_running_loop().create_future()
        if self._transport is None:
            raise _WentStale("the connection was closed")
        self._transport.write(request)
        try:
            await self._complete
        finally:
            self._complete = None

    def close(self) -> None:
        """At once."""
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
            self._fail(RequestFailed(f"the answer is not HTTP: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._served and not self._received:
            self._fail(_WentStale("the connection was closed"))
        elif self._answer is not None and self._answer.status is not None and not self._framed and exc is None:
            self.on_message_complete()
        else:
            self._fail(RequestFailed(f"the connection was closed before the answer was complete{_reason(exc)}"))
        self.reusable = False

    def on_message_begin(self) -> None:
        self._framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in _FRAMING_HEADERS:
            self._framed = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._answer is not None and status >= OK:
            self._answer.status = status

    def on_body(self, body: bytes) -> None:
        answer = self._answer
        if answer is None:
            return
        if answer.status == OK:
            answer.events.feed(body, self._now_s)
        elif len(answer.body) < _MAX_ERROR_BYTES:
            answer.body += body

    def on_message_complete(self) -> None:
        # An informational answer (1xx) precedes the one awaited.
        if self._answer is None or self._answer.status is None:
            return
        self._answer = None
        self._served += 1
        self.reusable = self._parser.should_keep_alive() and self._framed
        if self._complete is not None and not self._complete.done():
            self._complete.set_result(None)


class Connections:
    """To one server. As many as there are requests at a time; idle ones are used again."""

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

    async def ask(self, request: bytes, answer: Answer) -> None:
        """Send a request and wait for the end of its answer, which is read into `answer` as it comes. Raises
        RequestFailed."""
        while self._idle:
            connection = self._idle.pop()
            try:
                await self._ask_on(connection, request, answer)
            except _WentStale:
                continue
            return
        await self._ask_on(await self._connect(), request, answer)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._ssl)
        except OSError as error:
            raise RequestFailed(f"no connection to {self._host}:{self._port}: {error}") from None
        self._open.add(connection)
        return connection

    async def _ask_on(self, connection: _Connection, request: bytes, answer: Answer) -> None:
        try:
            await connection.ask(request, answer)
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
