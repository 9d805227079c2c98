"""The scraper on real connections, over loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random

import pytest
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.metrics.connection import ScrapeFailure
from picker.endpoints.metrics.schedule import ScrapeIntervals
from picker.endpoints.metrics.scraper import Scraper, ScrapeSettings

HEAD = b"HTTP/1.1 200 OK\r\nServer: uvicorn\r\nTransfer-Encoding: chunked\r\n\r\n"


class ModelServer:
    """Answers `/metrics` in two chunks and two packets, always at the same port."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.port = 0
        self.waiting = 0
        self.connections: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self.connections:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                for piece in (b"vllm:num_requests_waiting ", b"%d\n" % self.waiting):
                    writer.write((HEAD if piece[:1] == b"v" else b"") + b"%x\r\n%s\r\n" % (len(piece), piece))
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


class Watched:
    """A scraper whose scrapes can be awaited."""

    def __init__(self) -> None:
        self._scrape = asyncio.Event()
        self.last: ScrapeFailure | None = None
        settings = ScrapeSettings(ScrapeIntervals(0.02, 0.02, retry_after_s=0.02), timeout_s=5.0)
        self.scraper = Scraper(settings, InFlightTracker(), Random(1), self._seen)

    def _seen(self, _endpoint: Endpoint, failure: ScrapeFailure | None) -> None:
        self.last = failure
        self._scrape.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._scrape.clear()
                await self._scrape.wait()


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    created = Watched()
    yield created
    created.scraper.close()


@pytest.fixture(params=["127.0.0.1", "::1"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ModelServer]:
    created = ModelServer(request.param)
    try:
        await created.start()
    except OSError:
        pytest.skip(f"no loopback address {request.param} here")
    yield created
    await created.kill()


def endpoint(server: ModelServer) -> Endpoint:
    host = f"[{server.host}]" if ":" in server.host else server.host
    return Endpoint(f"{host}:{server.port}", "qwen")


async def test_a_server_is_scraped_through_a_restart(server: ModelServer, watched: Watched) -> None:
    """Metrics over one connection, then failures, then metrics again."""
    where = endpoint(server)
    watched.scraper.add(where)
    for waiting in (3, 5):
        server.waiting = waiting
        await watched.until(
            lambda expected=waiting: where.metrics is not None and where.metrics.queue_depth == expected
        )
    assert len(server.connections) == 1

    await server.kill()
    await watched.until(lambda: watched.last is ScrapeFailure.REFUSED)
    assert where.unreachable_since_s is not None
    assert where.metrics is not None

    server.waiting = 8
    await server.start()
    await watched.until(lambda: where.metrics is not None and where.metrics.queue_depth == 8)
    assert where.unreachable_since_s is None
