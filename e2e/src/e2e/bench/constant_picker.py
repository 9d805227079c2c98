"""The cheapest possible endpoint picker: it responds to each message with constant bytes and decodes none.

`python -m e2e.bench.constant_picker ADDRESS ENDPOINT...`. It implements only the part of HTTP/2 that Envoy uses here:
it decodes no header and tracks no send window. The throughput with it shows the cost of Envoy's own part.
"""

import asyncio
import itertools
import sys
from typing import cast

import uvloop
from picker.extproc.codec import encode
from picker.extproc.messages import BodyReply, Changes, HeadersReply, Phase
from picker.grpc_server.framing import PREFIX_BYTES, framed
from picker.grpc_server.http2 import frames
from picker.grpc_server.http2.frames import Setting
from picker.grpc_server.status import RESPONSE_HEADERS, Status, trailers
from picker.protocol import DESTINATION

_WINDOW_BYTES = 1 << 28
_SERVER_PREFACE = frames.settings_frame(
    {Setting.HEADER_TABLE_SIZE: 0, Setting.INITIAL_WINDOW_SIZE: _WINDOW_BYTES}
) + frames.window_update(0, _WINDOW_BYTES)
_END = trailers(Status.OK)
_TO_HEADERS = framed(encode(HeadersReply(Phase.REQUEST)))


class Picks:
    """Constant replies to a request's body: the endpoints in turn."""

    def __init__(self, endpoints: list[str]) -> None:
        picks = [Changes(set_headers=((DESTINATION, endpoint),), destination=endpoint) for endpoint in endpoints]
        self.with_body = itertools.cycle(framed(encode(BodyReply(Phase.REQUEST, pick))) for pick in picks)


class Connection(asyncio.Protocol):
    def __init__(self, picks: Picks) -> None:
        self._picks = picks
        self._rest = b""
        self._preface_received = False
        self._consumed_bytes = 0
        self._missing: dict[int, int] = {}
        """Missing bytes of the current message, by stream."""
        self._answered: set[int] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(_SERVER_PREFACE)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        position = 0
        if not self._preface_received:
            self._preface_received, position = True, len(frames.PREFACE)
        output: list[bytes] = []
        while len(data) - position >= frames.HEADER_BYTES:
            high, low, kind, flags, stream_id = frames.read_header(data, position)
            start = position + frames.HEADER_BYTES
            end = start + (high << 8 | low)
            if end > len(data):
                break
            position = end
            if kind == frames.DATA:
                self._data(data, start, end, flags, stream_id, output)
            elif kind == frames.HEADERS:
                self._missing[stream_id] = 0
            elif kind == frames.RST_STREAM:
                self._missing.pop(stream_id, None)
                self._answered.discard(stream_id)
            elif kind in (frames.SETTINGS, frames.PING) and not flags & frames.ACK:
                output.append(frames.frame(kind, frames.ACK, 0, data[start:end] if kind == frames.PING else b""))
        self._rest = data[position:]
        if self._consumed_bytes > _WINDOW_BYTES // 2:
            output.append(frames.window_update(0, self._consumed_bytes))
            self._consumed_bytes = 0
        if output:
            self._transport.write(b"".join(output))

    def _data(self, data: bytes, start: int, end: int, flags: int, stream_id: int, output: list[bytes]) -> None:
        self._consumed_bytes += end - start
        missing = self._missing.get(stream_id)
        if missing is None:
            return
        while start < end:
            if not missing:
                missing = int.from_bytes(data[start + 1 : start + PREFIX_BYTES])
                start += PREFIX_BYTES
            consumed = min(missing, end - start)
            start += consumed
            missing -= consumed
            if not missing:
                self._answer(stream_id, output)
        self._missing[stream_id] = missing
        if flags & frames.END_STREAM:
            output.append(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream_id, _END))
            del self._missing[stream_id]
            self._answered.discard(stream_id)

    def _answer(self, stream_id: int, output: list[bytes]) -> None:
        """Responds to a message: the first of a stream holds the request's headers, the second its body."""
        if stream_id in self._answered:
            output.append(frames.frame(frames.DATA, 0, stream_id, next(self._picks.with_body)))
            return
        self._answered.add(stream_id)
        output.append(frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, RESPONSE_HEADERS))
        output.append(frames.frame(frames.DATA, 0, stream_id, _TO_HEADERS))


async def serve(address: str, endpoints: list[str]) -> None:
    host, _, port = address.rpartition(":")
    picks = Picks(endpoints)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(picks), host, int(port))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2:]))
