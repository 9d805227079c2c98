"""One keep-alive connection to a model server's `/metrics`."""

import asyncio
from enum import StrEnum
from typing import Protocol, cast

import httptools
import structlog

log = structlog.get_logger(__name__)

MAX_HEAD_BYTES = 64 << 10
"""Limit on a response's headers and chunk sizes. Servers send some 200 bytes."""

OK = 200
_FRAMING_HEADERS = frozenset((b"content-length", b"transfer-encoding"))


class ScrapeFailure(StrEnum):
    """Why a scrape has no metrics."""

    REFUSED = "refused"
    """No process listens at the port."""
    UNREACHABLE = "unreachable"
    """No connection for another reason."""
    TIMEOUT = "timeout"
    CLOSED = "closed"
    """The server closed the connection before its response was complete."""
    STATUS = "status"
    """Another status than 200. Redirects are not followed: they lead to another server's metrics."""
    TOO_LARGE = "too-large"
    NOT_HTTP = "not-http"
    NOT_METRICS = "not-metrics"
    """A page without any of the required metrics."""


class PageReader(Protocol):
    """Receives the results of a connection: a page or a failure for each request, or nothing if the reader closes the
    connection first."""

    def connected(self) -> None: ...

    def page_read(self, page: bytes) -> None: ...

    def page_failed(self, failure: ScrapeFailure, detail: str) -> None:
        """No page was read, and the connection is closed. `detail` is text for logs."""
        ...


class ScrapeConnection(asyncio.Protocol):
    """Requests a page once connected, and then one at a time.

    Reads each framing of HTTP/1.1: by length, chunked, and until the connection closes.
    """

    def __init__(self, reader: PageReader, request: bytes, max_page_bytes: int) -> None:
        """`request`: a complete GET request, sent for each page."""
        self._reader = reader
        self._request = request
        self._max_bytes = max_page_bytes + MAX_HEAD_BYTES
        self._transport: asyncio.WriteTransport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._awaiting = False
        self._pages = 0
        self._received_bytes = 0
        self._status = 0
        self._framed = False
        self._parts: list[bytes] = []

    @property
    def idle(self) -> bool:
        """Whether a page can be requested."""
        return self._transport is not None and not self._awaiting

    @property
    def went_stale(self) -> bool:
        """Whether this connection has read pages, but nothing of the current one. If it fails then, the server has
        closed an idle connection, and another connection may be tried."""
        return self._pages > 0 and self._received_bytes == 0

    def send_request(self) -> None:
        """Send the request. Only while `idle`."""
        assert self._transport is not None
        self._awaiting = True
        self._received_bytes = 0
        self._status = 0
        self._transport.write(self._request)

    def close(self) -> None:
        """Close at once, without a report to the reader."""
        self._awaiting = False
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def _fail(self, failure: ScrapeFailure, detail: str) -> None:
        self.close()
        self._reader.page_failed(failure, detail)

    def _complete(self) -> None:
        page = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        self._awaiting = False
        self._pages += 1
        if not self._parser.should_keep_alive():
            self.close()
        self._reader.page_read(page)

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._reader.connected()
        self.send_request()

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        if not self._awaiting:
            # A response without a request, such as the 408 with which a server closes an idle connection.
            self.close()
        elif self._received_bytes > self._max_bytes:
            self._fail(ScrapeFailure.TOO_LARGE, f"more than {self._max_bytes} bytes")
        else:
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            # Raised by one of the callbacks below, which may have reported the end of the scrape or not.
            log.exception("scrape.failed", exc_info=error)
            self.close()
            self._reader.page_failed(ScrapeFailure.NOT_HTTP, f"{type(error).__name__}: {error.__context__ or error}")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._awaiting:
                self._fail(ScrapeFailure.NOT_HTTP, str(error))
            else:
                self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._awaiting:
            return
        if exc is None and self._status == OK and not self._framed:
            self._complete()
        else:
            self._fail(ScrapeFailure.CLOSED, str(exc or "before the response was complete"))

    # Called by the parser.

    def on_message_begin(self) -> None:
        self._framed = False
        self._parts = []
        if not self._awaiting:
            # Two responses to one request: the next response could not be assigned to its request.
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in _FRAMING_HEADERS:
            self._framed = True

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._awaiting and self._status > OK:
            self._fail(ScrapeFailure.STATUS, f"HTTP status {self._status}")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        # Informational responses (1xx) precede the final one.
        if self._awaiting and self._status == OK:
            self._complete()
