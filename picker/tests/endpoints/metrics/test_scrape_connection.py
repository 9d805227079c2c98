"""Pages come out of a connection however the server frames and cuts them, and failures come out named."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picker.endpoints.metrics.connection import MAX_HEAD_BYTES, ScrapeConnection, ScrapeFailure

REQUEST = b"GET /metrics HTTP/1.1\r\n\r\n"
PAGE = b"vllm:num_requests_waiting 4\n"


class FakeTransport:
    """Remembers what was written, and whether it was aborted."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.aborted = True


class Reader:
    """Who gets the pages; asks again at once if told to."""

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
    """A connection, its reader and the server's end of it."""

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


def test_a_page_is_asked_for_on_connecting_and_then_when_told() -> None:
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
def test_a_page_with_a_length_is_read_however_it_is_cut(page: bytes, at: list[int]) -> None:
    """Byte by byte, too."""
    line = Line()
    line.answer(*cut(by_length(page), at))
    assert line.reader.pages == [page]


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=5), places)
def test_a_page_in_chunks_is_read_however_it_is_cut(pieces: list[bytes], at: list[int]) -> None:
    """As servers behind a compressing or streaming layer send it."""
    line = Line()
    line.answer(*cut(chunked(pieces), at))
    assert line.reader.pages == [b"".join(pieces)]
    assert line.connection.idle


@given(st.binary(max_size=100), places)
def test_a_page_may_end_with_the_connection(page: bytes, at: list[int]) -> None:
    """HTTP/1.0's way."""
    line = Line()
    line.answer(*cut(b"HTTP/1.0 200 OK\r\n\r\n" + page, at))
    assert line.reader.pages == []
    line.hang_up()
    assert line.reader.pages == [page]


def test_informational_answers_are_waited_through() -> None:
    """103 Early Hints and the like."""
    line = Line()
    line.answer(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + by_length())
    assert line.reader.pages == [PAGE]


def test_a_server_that_keeps_no_connection_is_read_all_the_same() -> None:
    """The connection is closed from here, too."""
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
def test_what_is_no_page_is_a_named_failure(answer: bytes, failure: ScrapeFailure) -> None:
    """Other statuses, redirects among them; other protocols; pages without end. The connection is given up."""
    line = Line(max_page_bytes=1000)
    line.answer(*cut(answer, [1, 20, 40]))
    assert (line.reader.failures, line.reader.pages) == ([failure], [])
    assert line.transport.aborted


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 20", by_length()[:-1], chunked([PAGE])[:-5]])
@pytest.mark.parametrize("error", [None, ConnectionResetError("reset")])
def test_an_answer_that_breaks_off_is_a_failure(sent: bytes, error: Exception | None) -> None:
    """At whatever point, by a close or by a reset."""
    line = Line()
    line.answer(*cut(sent, []))
    line.hang_up(error)
    assert (line.reader.failures, line.reader.pages) == ([ScrapeFailure.CLOSED], [])


def test_a_connection_that_was_closed_while_idle_has_gone_stale() -> None:
    """Then another one may be tried; not if it failed at its first page, or halfway through one."""
    line = Line()
    assert not line.connection.went_stale
    line.answer(by_length())
    line.connection.send_request()
    assert line.connection.went_stale
    line.answer(b"HTTP/1.1 200")
    assert not line.connection.went_stale


def test_an_idle_connection_that_closes_is_no_failure() -> None:
    """Nobody waited for it."""
    line = Line()
    line.answer(by_length())
    line.hang_up()
    assert line.reader.failures == []
    assert not line.connection.idle


@pytest.mark.parametrize("split", [True, False])
def test_an_answer_that_nobody_asked_for_closes_the_connection(split: bool) -> None:
    """Or the next page would be taken for another's; a server's 408 on an idle connection is one."""
    line = Line()
    more = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"
    line.answer(*([by_length(), more] if split else [by_length() + more]))
    assert line.reader.pages == [PAGE]
    assert line.reader.failures == []
    assert line.transport.aborted


def test_a_closed_connection_says_nothing_more() -> None:
    """Its reader has given up on it."""
    line = Line()
    line.connection.close()
    line.hang_up()
    assert (line.reader.failures, line.reader.pages) == ([], [])


@given(st.lists(st.binary(max_size=60), max_size=5), st.booleans())
def test_any_bytes_are_a_page_or_a_failure(chunks: list[bytes], good_start: bool) -> None:
    """Once, and nothing is raised."""
    line = Line()
    line.answer(*([b"HTTP/1.1 200 OK\r\n"] if good_start else []), *chunks)
    line.hang_up()
    assert len(line.reader.failures) + len(line.reader.pages) == 1
