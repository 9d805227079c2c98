"""A scripted model server, which records its requests.

The request's header `x-behave` chooses the response:
    (none)      a JSON object with the server's name, the model and the path
    echo        the request's body, as octets
    stream      three server-sent events with the model, split into two chunks in the middle of its name
    hold        as `stream`, but the second chunk only after `released` is set
    fail        status 500
    reset       none: the connection is reset after the request is read
    wait        as without the header, but only after `released` is set
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Self

METRICS = b"""\
vllm:num_requests_running{model_name="m"} 0
vllm:num_requests_waiting{model_name="m"} 0
vllm:kv_cache_usage_perc{model_name="m"} 0
"""


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Upstream:
    """`async with` starts and stops the server."""

    name: str
    host: str = "127.0.0.1"
    port: int = 0
    received: list[Received] = field(default_factory=list)
    metrics: bytes = METRICS
    released: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request waits for `released`."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client disconnects before its response is complete."""
    _server: asyncio.Server | None = None
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """Stops listening and resets all connections, like a killed process."""
        if self._server is not None:
            self._server.close()
        for writer in self._connections:
            writer.transport.abort()

    def reset(self) -> None:
        """Clears the recorded requests and the events, and restores the default metrics."""
        self.received.clear()
        for event in (self.released, self.waiting, self.left):
            event.clear()
        self.metrics = METRICS

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while (request := await _read(reader)) is not None:
                if request.path == "/metrics":
                    writer.write(_answer(self.metrics, "text/plain"))
                    continue
                self.received.append(request)
                await self._answer(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behave = request.headers.get("x-behave", "")
        if behave == "reset":
            writer.transport.abort()
            raise ConnectionResetError
        if behave == "wait":
            self.waiting.set()
            await self._released_or_left(reader)
        if behave == "echo":
            writer.write(_answer(request.body, "application/octet-stream"))
        elif behave == "fail":
            writer.write(_answer(b"broken", "text/plain", status="500 Internal Server Error"))
        elif behave in ("stream", "hold"):
            await self._stream(request, reader, writer, hold=behave == "hold")
        else:
            body = {"served_by": self.name, "model": _model(request.body), "path": request.path}
            writer.write(_answer(json.dumps(body).encode(), "application/json"))
        await writer.drain()

    async def _stream(
        self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, hold: bool
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        text = b"".join(
            b"data: " + json.dumps({"model": _model(request.body), "n": n}).encode() + b"\n\n" for n in range(3)
        )
        middle = text.index(b'"model"') + 12
        writer.write(_chunk(text[:middle]))
        await writer.drain()
        if hold:
            self.waiting.set()
            await self._released_or_left(reader)
        writer.write(_chunk(text[middle:]) + _chunk(b""))

    async def _released_or_left(self, reader: asyncio.StreamReader) -> None:
        """Waits for `released`. Raises ConnectionError if the client disconnects first."""
        released = asyncio.ensure_future(self.released.wait())
        disconnected = asyncio.ensure_future(reader.read(1))
        done, pending = await asyncio.wait((released, disconnected), return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        # The next read fails while a cancelled read is still pending.
        if pending:
            await asyncio.wait(pending)
        if disconnected in done and released not in done:
            raise ConnectionResetError


async def _read(reader: asyncio.StreamReader) -> Received | None:
    """Reads the next request. None if the client closed the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        return Received(method, path, headers, await _read_chunks(reader))
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    pieces: list[bytes] = []
    while size := int(await reader.readline(), 16):
        pieces.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readline()
    return b"".join(pieces)


def _answer(body: bytes, content_type: str, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _model(body: bytes) -> object:
    try:
        return json.loads(body)["model"]
    except (ValueError, KeyError, TypeError):
        return None
