"""Pages are read however the server frames and splits them, and failures have names."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picker.endpoints.metrics.connection import MAX_HEAD_BYTES, ScrapeConnection, ScrapeFailure

REQUEST = b"GET /metrics HTTP/1.1\r\n\r\n"
PAGE = b"vllm:num_requests_waiting 4\n"


class FakeTransport:
    """Records what was written, and whether it was aborted."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.aborted = True


class Reader:
    """Receives the pages, and requests the next one at once if configured to."""

    def __init__(self) -> None:
        self.connects = 0
        self.pages: list[bytes] = []
        self.failures: list[ScrapeFailure] = []

    def connected(self) -> None:
        self.connects += 1

    def page_read(self, page: bytes) -> None:
        self.pages.append(page)

    def page_failed(self, failure: ScrapeFailure, detail: str) -> None:
        assert detail
        self.failures.append(failure)


class Line:
    """A connection, its reader and the server's side of it."""

    def __init__(self, max_page_bytes: int = 1000) -> None:
        self.reader = Reader()
        self.connection = ScrapeConnection(self.reader, REQUEST, max_page_bytes)
        self.transport = FakeTransport()
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]

    def answer(self, *chunks: bytes) -> None:
        for chunk in chunks:
            if not self.transport.aborted:
                self.connection.data_received(chunk)

    def hang_up(self, error: Exception | None = None) -> None:
        self.connection.connection_lost(error)


def by_length(page: bytes = PAGE, head: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (head, len(page), page)


def chunked(pieces: Sequence[bytes]) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


places = st.lists(st.integers(0, 300), max_size=6)


def test_a_page_is_requested_on_connecting_and_then_on_demand() -> None:
    """Over the same connection."""
    line = Line()
    assert line.reader.connects == 1
    assert not line.connection.idle
    line.answer(by_length(b"one"))
    assert line.connection.idle
    line.connection.send_request()
    line.answer(by_length(b"two"))
    assert line.reader.pages == [b"one", b"two"]
    assert line.transport.written == [REQUEST, REQUEST]


@given(st.binary(min_size=1, max_size=100), places)
def test_a_page_with_a_length_is_read_however_it_is_split(page: bytes, at: list[int]) -> None:
    """Also byte by byte."""
    line = Line()
    line.answer(*cut(by_length(page), at))
    assert line.reader.pages == [page]


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=5), places)
def test_a_page_in_chunks_is_read_however_it_is_split(pieces: list[bytes], at: list[int]) -> None:
    """As servers behind a compressing or streaming layer send it."""
    line = Line()
    line.answer(*cut(chunked(pieces), at))
    assert line.reader.pages == [b"".join(pieces)]
    assert line.connection.idle


@given(st.binary(max_size=100), places)
def test_a_page_may_end_with_the_connection(page: bytes, at: list[int]) -> None:
    """As in HTTP/1.0."""
    line = Line()
    line.answer(*cut(b"HTTP/1.0 200 OK\r\n\r\n" + page, at))
    assert line.reader.pages == []
    line.hang_up()
    assert line.reader.pages == [page]


def test_informational_responses_are_skipped() -> None:
    """For example 103 Early Hints."""
    line = Line()
    line.answer(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + by_length())
    assert line.reader.pages == [PAGE]


def test_a_page_of_a_server_without_keep_alive_is_read() -> None:
    """The client closes the connection as well."""
    line = Line()
    line.answer(by_length(head=b"Connection: close\r\n"))
    assert line.reader.pages == [PAGE]
    assert line.transport.aborted
    assert not line.connection.idle


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", ScrapeFailure.STATUS),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy", ScrapeFailure.STATUS),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ScrapeFailure.STATUS),
        (b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n", ScrapeFailure.STATUS),
        (b"SSH-2.0-OpenSSH_9.6\r\n", ScrapeFailure.NOT_HTTP),
        (b"\x16\x03\x01\x02\x00", ScrapeFailure.NOT_HTTP),
        (b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n", ScrapeFailure.NOT_HTTP),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", ScrapeFailure.NOT_HTTP),
        (by_length(b"x" * (MAX_HEAD_BYTES + 1001)), ScrapeFailure.TOO_LARGE),
        (chunked([b"x" * 1000] * (MAX_HEAD_BYTES // 1000 + 3)), ScrapeFailure.TOO_LARGE),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * MAX_HEAD_BYTES * 2, ScrapeFailure.TOO_LARGE),
    ],
)
def test_a_response_that_is_no_page_is_a_named_failure(answer: bytes, failure: ScrapeFailure) -> None:
    """Other statuses, redirects included, other protocols, and pages without end. The connection is closed."""
    line = Line(max_page_bytes=1000)
    line.answer(*cut(answer, [1, 20, 40]))
    assert (line.reader.failures, line.reader.pages) == ([failure], [])
    assert line.transport.aborted


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 20", by_length()[:-1], chunked([PAGE])[:-5]])
@pytest.mark.parametrize("error", [None, ConnectionResetError("reset")])
def test_a_truncated_response_is_a_failure(sent: bytes, error: Exception | None) -> None:
    """At any position, by a close or by a reset."""
    line = Line()
    line.answer(*cut(sent, []))
    line.hang_up(error)
    assert (line.reader.failures, line.reader.pages) == ([ScrapeFailure.CLOSED], [])


def test_a_connection_that_was_closed_while_idle_has_gone_stale() -> None:
    """Another connection may be tried then, but not after a failure at the first page or within a page."""
    line = Line()
    assert not line.connection.went_stale
    line.answer(by_length())
    line.connection.send_request()
    assert line.connection.went_stale
    line.answer(b"HTTP/1.1 200")
    assert not line.connection.went_stale


def test_an_idle_connection_that_closes_is_no_failure() -> None:
    """No request waits for it."""
    line = Line()
    line.answer(by_length())
    line.hang_up()
    assert line.reader.failures == []
    assert not line.connection.idle


@pytest.mark.parametrize("split", [True, False])
def test_a_response_without_a_request_closes_the_connection(split: bool) -> None:
    """The next page could not be assigned otherwise. A server's 408 on an idle connection is such a response."""
    line = Line()
    more = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"
    line.answer(*([by_length(), more] if split else [by_length() + more]))
    assert line.reader.pages == [PAGE]
    assert line.reader.failures == []
    assert line.transport.aborted


def test_a_closed_connection_reports_nothing() -> None:
    """Its reader has closed it."""
    line = Line()
    line.connection.close()
    line.hang_up()
    assert (line.reader.failures, line.reader.pages) == ([], [])


@given(st.lists(st.binary(max_size=60), max_size=5), st.booleans())
def test_any_bytes_are_a_page_or_a_failure(chunks: list[bytes], good_start: bool) -> None:
    """Exactly one of them, and nothing is raised."""
    line = Line()
    line.answer(*([b"HTTP/1.1 200 OK\r\n"] if good_start else []), *chunks)
    line.hang_up()
    assert len(line.reader.failures) + len(line.reader.pages) == 1
