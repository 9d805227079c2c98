"""Model servers that cost next to nothing: they respond at once, on many ports of one process.

`python -m e2e.bench.upstreams METRICS_FILE PORT...`. POST returns the body's length and checksum, or under `/v1/chat/`
a stream of STREAM_CHUNKS server-sent events. GET /metrics returns the content of METRICS_FILE.
"""

import asyncio
import json
import sys
import zlib
from pathlib import Path
from typing import cast

import uvloop

STREAM_CHUNKS = 200
BURST = 10
"""Chunks written before the event loop runs other work. Judgement: with fewer, the bench measures this process."""

_HEAD_END = b"\r\n\r\n"
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = b'data: {"object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":" a"}}]}\n\n'
_CHUNK = f"{len(_EVENT):x}\r\n".encode() + _EVENT + b"\r\n"


def answer_to(body: bytes) -> bytes:
    """The JSON of a server's response to `body`."""
    return json.dumps({"bytes": len(body), "crc32": zlib.crc32(body)}).encode()


class Server(asyncio.Protocol):
    """One connection. Requests have a Content-Length or no body. Envoy does not pipeline them."""

    def __init__(self, metrics: bytes) -> None:
        self._metrics = metrics
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while (head_end := buffer.find(_HEAD_END)) >= 0:
            head = bytes(buffer[:head_end]).lower()
            body_start = head_end + len(_HEAD_END)
            end = body_start + content_length(head)
            if len(buffer) < end:
                return
            self._answer(head, bytes(buffer[body_start:end]))
            del buffer[:end]

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get /metrics"):
            self._write(b"text/plain", self._metrics)
        elif head.startswith(b"post /v1/chat/"):
            self._transport.write(_STREAM_HEAD)
            self._stream(STREAM_CHUNKS)
        else:
            self._write(b"application/json", answer_to(body))

    def _write(self, content_type: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n" % (content_type, len(body))
        self._transport.write(head + body)

    def _stream(self, left: int) -> None:
        for _ in range(min(BURST, left)):
            self._transport.write(_CHUNK)
        if left > BURST:
            self._loop.call_soon(self._stream, left - BURST)
        else:
            self._transport.write(b"0\r\n\r\n")


def content_length(head: bytes) -> int:
    """Content-Length of a message with the lower-case head `head`. 0 without one."""
    at = head.find(b"\r\ncontent-length:")
    return int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


async def serve(metrics: bytes, ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(lambda: Server(metrics), "127.0.0.1", port) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]).read_bytes(), [int(port) for port in sys.argv[2:]]))
