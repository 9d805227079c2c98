"""A cheap load generator: clients that repeat one request, each on its own connection."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from e2e.bench.upstreams import content_length

_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Load:
    """Result of a run."""

    latencies_s: tuple[float, ...]
    """Latencies of the requests with status 200, in ascending order."""
    errors: int
    elapsed_s: float
    last_body: bytes
    """Body of the last response with a Content-Length."""

    @property
    def rate(self) -> float:
        """Successful requests per second."""
        return len(self.latencies_s) / self.elapsed_s

    def percentile_s(self, share: float) -> float:
        """Latency at a quantile; 0.5 is the median. NaN without requests."""
        if not self.latencies_s:
            return float("nan")
        return self.latencies_s[min(len(self.latencies_s) - 1, int(share * len(self.latencies_s)))]


def post(path: str, body: bytes) -> bytes:
    """The bytes of an HTTP/1.1 POST request."""
    return (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


async def run_load(
    port: int, request: bytes | Callable[[], bytes], clients: int, seconds: float, every_s: float = 0.0
) -> Load:
    """Closed loop over `clients` connections to a loopback port.

    Each client sends `request`, or the result of calling it, and repeats after the response. `every_s`: minimum time
    between two requests of a client. No request starts after `seconds`, but each client sends at least one.
    """
    loop = asyncio.get_running_loop()
    began_s = time.perf_counter()
    run = _Run(request if callable(request) else lambda: request, began_s + seconds, every_s)
    connections: list[tuple[asyncio.Transport, _Client]] = []
    for _ in range(clients):
        connections.append(await loop.create_connection(lambda: _Client(run), "127.0.0.1", port))
        # Spreads the clients over the interval.
        await asyncio.sleep(every_s / clients)
    await asyncio.gather(*(client.finished for _, client in connections))
    return Load(tuple(sorted(run.latencies_s)), run.errors, time.perf_counter() - began_s, run.last_body)


class _Run:
    def __init__(self, request: Callable[[], bytes], until_s: float, every_s: float) -> None:
        self.request = request
        self.until_s = until_s
        self.every_s = every_s
        self.latencies_s: list[float] = []
        self.errors = 0
        self.last_body = b""


class _Client(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self.finished: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self._sent_s = time.perf_counter()
        self._transport.write(self._run.request())

    def _send_again(self) -> None:
        if time.perf_counter() >= self._run.until_s:
            self._end()
        else:
            self._send()

    def _end(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if (head_end := buffer.find(_HEAD_END)) < 0:
            return
        if b"chunked" in buffer[:head_end]:
            if not buffer.endswith(_LAST_CHUNK):
                return
        else:
            body_start = head_end + len(_HEAD_END)
            if len(buffer) < body_start + content_length(bytes(buffer[:head_end]).lower()):
                return
            self._run.last_body = bytes(buffer[body_start:])
        if buffer.startswith(b"HTTP/1.1 200"):
            self._run.latencies_s.append(time.perf_counter() - self._sent_s)
        else:
            self._run.errors += 1
        buffer.clear()
        wait_s = self._sent_s + self._run.every_s - time.perf_counter()
        if wait_s > 0:
            self._loop.call_later(wait_s, self._send_again)
        else:
            self._send_again()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self._run.errors += 1
            self.finished.set_result(None)
