"""The server side of one connection: frames in, events and frames out (RFC 9113).

Priority is ignored, and nothing is pushed. Upgrades from HTTP/1.1 are not supported: clients speak HTTP/2 from the
first byte, by prior knowledge or by ALPN. `limits` bounds what a peer may cost."""

from picker.grpc_server.http2 import frames, limits, payloads
from picker.grpc_server.http2.abuse_budget import AbuseBudget
from picker.grpc_server.http2.events import (
    ConnectionFailure,
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamFailure,
    StreamReset,
)
from picker.grpc_server.http2.frames import ErrorCode
from picker.grpc_server.http2.header_blocks import Block, BlockReader
from picker.grpc_server.http2.header_fields import MalformedHeaders
from picker.grpc_server.http2.headers import (
    CallHeaders,
    HeaderBlockCache,
    HeaderReader,
    OversizedHeaders,
    UndecodableHeaders,
)
from picker.grpc_server.http2.inbound import InboundStreams
from picker.grpc_server.http2.outbound import OutboundStreams, Stream
from picker.grpc_server.http2.settings import SERVER_PREFACE, SETTINGS_ACK, read_settings
from picker.grpc_server.http2.streams import Streams

_SHUTDOWN_PING = b"lastcall"
"""Payload of the PING whose acknowledgement shows that the peer has received the first GOAWAY."""


class Connection:
    """State machine of one connection. `receive` takes the peer's bytes; `respond`, `send` and `end` send a response.

    The caller writes what `data_to_send` returns. Once `closed`, that is the last output.

    Responses on a closed stream are dropped: the event that reports its end may not have been handled yet."""

    def __init__(self, header_cache: HeaderBlockCache) -> None:
        self.closed = False
        self.settings_received = False
        """Whether the peer has sent the SETTINGS frame of its preface (section 3.4)."""
        self._header_reader = HeaderReader(header_cache)
        self._blocks = BlockReader()
        self._streams = Streams()
        self._open = self._streams.open
        self._sending = OutboundStreams()
        self._sending.output.append(SERVER_PREFACE)
        self._abuse = AbuseBudget()
        self._prefaced = False
        self._partial_frame = b""
        self._receiving = InboundStreams(self._sending)
        self._useful = 0
        self._draining = False
        self._last_stream_id: int | None = None
        """The last stream that is served during shutdown, once it is known."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes of responses that wait for the peer."""
        return self._sending.unsent_bytes

    def receive(self, data: bytes, now_s: float) -> list[Event]:
        """Returns the events of `data` from the peer. `now_s` is the time on any monotonic clock.

        Never raises: a peer that breaks the protocol leads to a StreamReset or ConnectionTerminated event."""
        events: list[Event] = []
        if self.closed:
            return events
        self._abuse.now_s = now_s
        try:
            position = self._complete_partial_frame(data, events) if self._partial_frame else 0
            if position is not None:
                self._partial_frame = data[self._read(data, position, events) :]
            self._after_reading()
        except ConnectionFailure as failure:
            self._terminate(failure, events)
        return events

    def respond(self, stream_id: int, block: bytes) -> None:
        """Sends the response headers in `block` (see `headers.encode_headers`)."""
        if (stream := self._open.get(stream_id)) is not None:
            self._sending.headers(stream, block)

    def send(self, stream_id: int, data: bytes) -> None:
        """Sends `data` of the response body, or buffers it until the peer's windows allow it."""
        if (stream := self._open.get(stream_id)) is not None:
            self._sending.data(stream, data)

    def end(self, stream_id: int, block: bytes) -> None:
        """Ends the response with the trailers in `block`, or with headers alone if it has not begun."""
        stream = self._open.get(stream_id)
        if stream is not None and self._sending.end(stream, block):
            self._finish(stream)

    def pause_sending(self, paused: bool) -> None:
        """Holds DATA frames back while the transport is full. Other frames are still sent, in reply to the peer's."""
        self._sending.paused = paused
        if not paused:
            self._flush()

    def shut_down(self) -> None:
        """Accepts no new streams, and closes after the last one. Streams that the peer begins before it receives the
        GOAWAY are served (section 6.8)."""
        if not (self._draining or self.closed):
            self._draining = True
            self._sending.output += (
                frames.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR),
                frames.frame(frames.PING, 0, 0, _SHUTDOWN_PING),
            )

    def data_to_send(self) -> bytes:
        """Returns the bytes to write now; empty if there are none."""
        return self._sending.data_to_send()

    def _complete_partial_frame(self, data: bytes, events: list[Event]) -> int | None:
        """Completes the buffered frame with as much of `data` as it needs, so that not all of `data` is copied.

        Returns where the rest of `data` begins; None if there is none."""
        partial = self._partial_frame
        missing = len(data)
        if self._prefaced and len(partial) >= frames.HEADER_BYTES:
            missing = min(missing, frames.HEADER_BYTES + frames.payload_bytes(partial) - len(partial))
        partial += data[:missing]
        self._partial_frame = partial[self._read(partial, 0, events) :]
        return missing if missing < len(data) else None

    def _read(self, data: bytes, position: int, events: list[Event]) -> int:
        """Reads the whole frames in `data` from `position`, and returns where they end."""
        if not self._prefaced:
            if not frames.PREFACE.startswith(data[: len(frames.PREFACE)]):
                raise ConnectionFailure(
                    ErrorCode.PROTOCOL_ERROR, "invalid connection preface: expected HTTP/2 with prior knowledge"
                )
            if len(data) < len(frames.PREFACE):
                return 0
            self._prefaced = True
            position = len(frames.PREFACE)
        size = len(data)
        while size - position >= frames.HEADER_BYTES:
            high, low, kind, flags, stream_id = frames.read_header(data, position)
            length = high << 8 | low
            if length > limits.MAX_FRAME_BYTES:
                raise ConnectionFailure(
                    ErrorCode.FRAME_SIZE_ERROR,
                    f"frame of {length} bytes exceeds SETTINGS_MAX_FRAME_SIZE {limits.MAX_FRAME_BYTES}",
                )
            start = position + frames.HEADER_BYTES
            end = start + length
            if end > size:
                break
            position = end
            try:
                if kind == frames.DATA and self.settings_received:
                    self._data(data[start:end], flags, stream_id & frames.MAX_STREAM_ID, events)
                else:
                    self._other(kind, data[start:end], flags, stream_id & frames.MAX_STREAM_ID, events)
            except StreamFailure as failure:
                self._reset_failed_stream(failure, events)
            if self.closed:
                return size
        return position

    def _other(self, kind: int, payload: bytes, flags: int, stream_id: int, events: list[Event]) -> None:
        """Handles a frame of any type but DATA."""
        if not self.settings_received and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "first frame is not SETTINGS")
        if kind != frames.CONTINUATION:
            self._blocks.check_complete()
        match kind:
            case frames.HEADERS:
                self._header_block(self._blocks.headers(payload, flags, stream_id), events)
            case frames.CONTINUATION:
                self._header_block(self._blocks.continuation(payload, flags, stream_id), events)
            case frames.RST_STREAM:
                self._rst_stream(payload, stream_id, events)
            case frames.WINDOW_UPDATE:
                self._window_update(payload, stream_id)
            case frames.SETTINGS:
                self._settings(payload, flags, stream_id)
            case frames.PING:
                self._ping(payload, flags, stream_id)
            case frames.PRIORITY:
                self._abuse.empty_frame()
                payloads.check_priority(payload, stream_id)
            case frames.GOAWAY:
                self._abuse.empty_frame()
                payloads.check_goaway(payload, stream_id)
            case frames.PUSH_PROMISE:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
            case _:
                # Unknown types are ignored (section 5.5).
                self._abuse.empty_frame()

    def _after_reading(self) -> None:
        sending = self._sending
        self._abuse.useful(self._useful + sending.sent_frames)
        self._useful = sending.sent_frames = 0
        if sending.unsent_bytes:
            self._flush()
            if sending.unsent_bytes > limits.MAX_UNSENT_BYTES:
                raise ConnectionFailure(
                    ErrorCode.ENHANCE_YOUR_CALM, f"peer does not read: send buffer over {limits.MAX_UNSENT_BYTES} bytes"
                )
        self._receiving.replenish_window()

    def _flush(self) -> None:
        for stream in self._sending.flush():
            self._finish(stream)
        self._receiving.replenish_window()

    def _data(self, payload: bytes, flags: int, stream_id: int, events: list[Event]) -> None:
        if self._blocks.incomplete is not None:
            self._blocks.check_complete()
        stream = self._open.get(stream_id)
        if stream is not None and stream.ended_by_peer:
            stream = None
        ended = flags & frames.END_STREAM != 0
        if payload:
            self._receiving.consume_window(len(payload), stream, ended)
        if stream is None:
            self._abuse.empty_frame()
            self._streams.check_not_idle(stream_id, "DATA")
            if not self._streams.recently_closed(stream_id):
                raise StreamFailure(stream_id, ErrorCode.STREAM_CLOSED)
            return
        if flags & frames.PADDED:
            payload = payloads.unpadded(payload)
        if payload:
            self._useful += 1
        elif not ended:
            self._abuse.empty_frame()
            return
        if stream.body_left_bytes is not None:
            stream.body_left_bytes -= len(payload)
            if stream.body_left_bytes < 0 or (ended and stream.body_left_bytes):
                raise StreamFailure(stream_id, ErrorCode.PROTOCOL_ERROR)
        if ended:
            stream.ended_by_peer = True
        events.append(DataReceived(stream_id, payload, ended))

    def _header_block(self, block: Block | None, events: list[Event]) -> None:
        """Handles a header block if it is complete. It is decoded even if its stream is closed, because the HPACK state
        must stay in step."""
        if block is None:
            return
        stream_id = block.stream_id
        try:
            if self._streams.is_new(stream_id):
                self._begin(stream_id, self._header_reader.request(block.data), block.ended, events)
            else:
                malformed = self._header_reader.trailers(block.data)
                self._trailers(stream_id, block.ended, malformed, events)
        except MalformedHeaders:
            raise StreamFailure(stream_id, ErrorCode.PROTOCOL_ERROR) from None
        except OversizedHeaders as error:
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, str(error)) from None
        except UndecodableHeaders as error:
            raise ConnectionFailure(ErrorCode.COMPRESSION_ERROR, str(error)) from None

    def _begin(self, stream_id: int, headers: CallHeaders, ended: bool, events: list[Event]) -> None:
        after_goaway = self._last_stream_id is not None and stream_id > self._last_stream_id
        if after_goaway or len(self._open) >= limits.MAX_STREAMS:
            raise StreamFailure(stream_id, ErrorCode.REFUSED_STREAM)
        if ended and headers.content_length:
            raise StreamFailure(stream_id, ErrorCode.PROTOCOL_ERROR)
        self._open[stream_id] = Stream(stream_id, limits.STREAM_WINDOW_BYTES, headers.content_length, ended)
        self._useful += 1
        events.append(RequestReceived(stream_id, headers, ended))

    def _trailers(self, stream_id: int, ended: bool, malformed: bool, events: list[Event]) -> None:
        stream = self._open.get(stream_id)
        if stream is None:
            self._abuse.empty_frame()
            self._streams.check_recently_closed(stream_id)
            return
        if stream.ended_by_peer:
            raise StreamFailure(stream_id, ErrorCode.STREAM_CLOSED)
        if malformed or not ended or stream.body_left_bytes:
            raise StreamFailure(stream_id, ErrorCode.PROTOCOL_ERROR)
        stream.ended_by_peer = True
        self._useful += 1
        events.append(DataReceived(stream_id, b"", ended=True))

    def _rst_stream(self, payload: bytes, stream_id: int, events: list[Event]) -> None:
        code = payloads.reset_code(payload)
        self._streams.check_not_idle(stream_id, "RST_STREAM")
        stream = self._open.pop(stream_id, None)
        if stream is None:
            self._abuse.empty_frame()
            return
        events.append(StreamReset(stream_id, code))
        self._sending.close_stream(stream)
        self._close_if_done()
        if not stream.answered:
            self._abuse.wasted_request()

    def _window_update(self, payload: bytes, stream_id: int) -> None:
        self._abuse.empty_frame()
        if stream_id:
            self._streams.check_not_idle(stream_id, "WINDOW_UPDATE")
        increment = payloads.window_increment(payload, stream_id)
        if stream_id == 0:
            if not self._sending.window_opened(increment):
                raise ConnectionFailure(
                    ErrorCode.FLOW_CONTROL_ERROR,
                    f"WINDOW_UPDATE increases the connection's window beyond {frames.MAX_WINDOW_BYTES}",
                )
            return
        stream = self._open.get(stream_id)
        if stream is not None and not self._sending.stream_window_opened(stream, increment):
            raise StreamFailure(stream_id, ErrorCode.FLOW_CONTROL_ERROR)

    def _settings(self, payload: bytes, flags: int, stream_id: int) -> None:
        if stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"SETTINGS on stream {stream_id}")
        self._abuse.empty_frame(limits.SETTINGS_COST)
        if flags & frames.ACK:
            if payload:
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a non-empty payload")
            self._header_reader.dynamic_table_disabled()
            return
        settings = read_settings(payload)
        self.settings_received = True
        self._sending.configure(settings.initial_window_bytes, settings.max_frame_bytes)
        self._sending.output.append(SETTINGS_ACK)

    def _ping(self, payload: bytes, flags: int, stream_id: int) -> None:
        self._abuse.empty_frame()
        payloads.check_ping(payload, stream_id)
        if not flags & frames.ACK:
            self._sending.output.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _SHUTDOWN_PING and self._draining and self._last_stream_id is None:
            self._last_stream_id = self._streams.highest
            self._sending.output.append(frames.goaway(self._last_stream_id, ErrorCode.NO_ERROR))
            self._close_if_done()

    def _finish(self, stream: Stream) -> None:
        """Closes the stream after a complete response. A peer that is still sending gets RST_STREAM with NO_ERROR
        (section 8.1)."""
        if stream.ended_by_peer:
            self._open.pop(stream.stream_id, None)
        else:
            self._reset(stream, ErrorCode.NO_ERROR)
        self._close_if_done()

    def _reset(self, stream: Stream, code: ErrorCode) -> None:
        self._sending.close_stream(stream)
        self._sending.output.append(frames.rst_stream(stream.stream_id, code))
        self._streams.close_stream(stream.stream_id)

    def _reset_failed_stream(self, failure: StreamFailure, events: list[Event]) -> None:
        stream_id = failure.stream_id
        if (stream := self._open.get(stream_id)) is not None:
            self._reset(stream, failure.code)
            events.append(StreamReset(stream_id, failure.code))
        else:
            self._sending.output.append(frames.rst_stream(stream_id, failure.code))
            self._streams.close_stream(stream_id)
        self._close_if_done()
        self._abuse.wasted_request()

    def _close_if_done(self) -> None:
        if self._last_stream_id is not None and not self._open:
            self.closed = True

    def _terminate(self, failure: ConnectionFailure, events: list[Event]) -> None:
        self.closed = True
        for stream in self._open.values():
            self._sending.close_stream(stream)
        self._open.clear()
        self._sending.output.append(frames.goaway(self._streams.highest, failure.code, failure.detail))
        events.append(ConnectionTerminated(failure.code, failure.detail))
