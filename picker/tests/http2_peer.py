"""Clients joined with a server's connection in memory: one of the package h2, and one that sends any bytes."""

from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings
from picker.grpc_server.http2 import frames
from picker.grpc_server.http2.connection import Connection
from picker.grpc_server.http2.events import Event
from picker.grpc_server.http2.frames import ErrorCode
from picker.grpc_server.http2.headers import HeaderBlockCache, encode_headers

REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/service/Method"),
    (":authority", "picker"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
ANSWER = encode_headers([(":status", "200"), ("content-type", "application/grpc")])
TRAILERS = encode_headers([("grpc-status", "0")])


@dataclass
class Frame:
    """A frame that the server has sent."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> ErrorCode:
        """The error code of RST_STREAM or GOAWAY."""
        return ErrorCode(frames.read_word(self.payload, 4 if self.kind == frames.GOAWAY else 0)[0])


def frames_of(data: bytes) -> list[Frame]:
    result: list[Frame] = []
    position = 0
    while position < len(data):
        high, low, kind, flags, stream_id = frames.read_header(data, position)
        end = position + frames.HEADER_BYTES + (high << 8 | low)
        result.append(Frame(kind, flags, stream_id, data[position + frames.HEADER_BYTES : end]))
        position = end
    return result


@dataclass
class RawClient:
    """Sends any bytes. `sends_preface`: it starts with a client's connection preface."""

    connection: Connection = field(default_factory=lambda: Connection(HeaderBlockCache()))
    now_s: float = 0.0
    sends_preface: bool = True

    def __post_init__(self) -> None:
        if self.sends_preface:
            self.send(frames.PREFACE + frames.settings_frame({}) + frames.frame(frames.SETTINGS, frames.ACK, 0))
            self.received_frames()

    def send(self, data: bytes) -> list[Event]:
        return self.connection.receive(data, self.now_s)

    def received_frames(self) -> list[Frame]:
        """Returns the frames that the server has sent since the last call."""
        return frames_of(self.connection.data_to_send())

    def request(self, stream_id: int = 1, *, end: bool = False) -> list[Event]:
        return self.send(headers(stream_id, end=end))

    def goaway(self) -> Frame:
        """Returns the GOAWAY with which the server closed the connection."""
        assert self.connection.closed
        last = self.received_frames()[-1]
        assert last.kind == frames.GOAWAY
        return last


def headers(stream_id: int, fields: list[tuple[str, str]] = REQUEST, *, end: bool = False, flags: int = 0) -> bytes:
    """Returns a HEADERS frame with a complete block."""
    flags |= frames.END_HEADERS | (frames.END_STREAM if end else 0)
    return frames.frame(frames.HEADERS, flags, stream_id, encode_headers(fields))


def data(stream_id: int, payload: bytes, *, end: bool = False) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream_id, payload)


class H2Client:
    """A client of the package h2, whose implementation is independent."""

    def __init__(self, connection: Connection | None = None, settings: dict[int, int] | None = None) -> None:
        self.server = connection or Connection(HeaderBlockCache())
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.client.initiate_connection()
        if settings:
            self.client.update_settings({h2.settings.SettingCodes(name): value for name, value in settings.items()})
        self.server_events: list[Event] = []
        self.client_events: list[h2.events.Event] = []
        self.pump()

    def pump(self) -> None:
        """Carries bytes both ways until neither side has output."""
        while True:
            to_server, to_client = self.client.data_to_send(), self.server.data_to_send()
            if not to_server and not to_client:
                return
            if to_server:
                self.server_events += self.server.receive(to_server, 0.0)
            if to_client:
                self.client_events += self.client.receive_data(to_client)

    def request(self, fields: list[tuple[str, str]] = REQUEST, *, end: bool = False) -> int:
        """Begins a request, and returns its stream."""
        stream_id = self.client.get_next_available_stream_id()
        self.client.send_headers(stream_id, fields, end_stream=end)
        self.pump()
        return stream_id

    def body(self, stream_id: int) -> bytes:
        """Returns what has arrived of a response body."""
        return b"".join(
            event.data or b""
            for event in self.client_events
            if isinstance(event, h2.events.DataReceived) and event.stream_id == stream_id
        )
