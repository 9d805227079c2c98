"""A model server that accepts only HTTP/2 without TLS (h2c)."""

import asyncio
import json
from dataclasses import dataclass
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from upstream import Upstream


@dataclass
class H2cUpstream(Upstream):
    """Responds with its name and the length of the request's body."""

    streams: int = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: H2cUpstream) -> None:
        self._upstream = upstream
        self._bodies: dict[int, bytearray] = {}
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            # The client is a scrape, which uses HTTP/1.1.
            self._transport.close()
            return
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                self._bodies[event.stream_id] = bytearray()
            elif isinstance(event, h2.events.DataReceived):
                self._bodies[event.stream_id] += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self._answer(event.stream_id)
        self._flush()

    def _answer(self, stream: int) -> None:
        self._upstream.streams += 1
        body = {"served_by": self._upstream.name, "bytes": len(self._bodies.pop(stream))}
        self._h2.send_headers(stream, [(":status", "200"), ("content-type", "application/json")])
        self._h2.send_data(stream, json.dumps(body).encode(), end_stream=True)

    def _flush(self) -> None:
        self._transport.write(self._h2.data_to_send())
