"""The sending side of a connection: bytes ready to go, and data that waits for the peer's windows."""

from collections import deque

import msgspec

from picker.grpc_server.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_BYTES,
    MAX_WINDOW_BYTES,
    MIN_MAX_FRAME_BYTES,
    frame,
    frame_header,
)


class Stream(msgspec.Struct, eq=False, gc=False):
    """One request and its answer. Lives until both sides have ended it or either has reset it."""

    stream_id: int
    window_in_bytes: int
    """What the peer may still send before it is given more."""
    body_left_bytes: int | None = None
    """Of the body that the request's content-length has announced."""
    ended_by_peer: bool = False
    answered: bool = False
    credit_bytes: int = 0
    """What the peer has granted beyond its initial window, less what was sent."""
    waiting: deque[memoryview] | None = None
    """Data that the windows, the peer's pace, or data before it hold back; few streams ever have any."""
    in_turn: bool = False
    """Whether it will be asked for data when the connection's window opens; not while its own window is closed."""
    last_block: bytes | None = None
    """Trailers that end the answer once all data has gone."""


class OutboundStreams:
    """Writes frames as far as the peer's windows reach; what is beyond waits, each stream in turn."""

    def __init__(self) -> None:
        self.output: list[bytes] = []
        self.held = False
        """Whether data has to wait although there are windows, because the transport is full."""
        self.unsent_bytes = 0
        self.sent_frames = 0
        """Of data, since somebody last set it to 0."""
        self._max_frame_bytes = MIN_MAX_FRAME_BYTES
        self._initial_bytes = INITIAL_WINDOW_BYTES
        self._window_bytes = INITIAL_WINDOW_BYTES
        self._waiting: dict[int, Stream] = {}
        self._turns: deque[Stream] = deque()

    def data_to_send(self) -> bytes:
        """What is ready to be written."""
        output = self.output
        if not output:
            return b""
        self.output = []
        return output[0] if len(output) == 1 else b"".join(output)

    def head(self, stream: Stream, block: bytes) -> None:
        stream.answered = True
        self.output.append(frame(HEADERS, END_HEADERS, stream.stream_id, block))

    def data(self, stream: Stream, data: bytes) -> None:
        """Send `data` now if it can go whole in one frame; otherwise piece by piece as it can."""
        size = len(data)
        if not (
            stream.waiting
            or self.held
            or size > self._window_bytes
            or size > self._initial_bytes + stream.credit_bytes
            or size > self._max_frame_bytes
        ):
            self._window_bytes -= size
            stream.credit_bytes -= size
            self.sent_frames += 1
            self.output += (frame_header(DATA, 0, stream.stream_id, size), data)
            return
        if stream.waiting is None:
            stream.waiting = deque()
        stream.waiting.append(memoryview(data))
        self.unsent_bytes += size
        self._waiting[stream.stream_id] = stream
        self._queue(stream)
        self.flush()

    def end(self, stream: Stream, block: bytes) -> bool:
        """End the answer with the trailers in `block`, after its data. Whether that has happened."""
        if stream.waiting:
            stream.last_block = block
            return False
        stream.answered = True
        self.output.append(frame(HEADERS, END_HEADERS | END_STREAM, stream.stream_id, block))
        return True

    def close_stream(self, stream: Stream) -> None:
        """The stream is gone, with what it had waiting."""
        if stream.waiting:
            self.unsent_bytes -= sum(map(len, stream.waiting))
            stream.waiting.clear()
            self._waiting.pop(stream.stream_id, None)

    def window_opened(self, increment_bytes: int) -> bool:
        """The peer takes more on the connection. False: more than a window may be."""
        self._window_bytes += increment_bytes
        return self._window_bytes <= MAX_WINDOW_BYTES

    def stream_window_opened(self, stream: Stream, increment_bytes: int) -> bool:
        """The peer takes more on one stream. False: more than a window may be."""
        stream.credit_bytes += increment_bytes
        self._queue(stream)
        return self._initial_bytes + stream.credit_bytes <= MAX_WINDOW_BYTES

    def configure(self, initial_window_bytes: int | None, max_frame_bytes: int | None) -> None:
        """The peer's SETTINGS. Windows of all streams move with the initial one (section 6.9.2), and may become
        negative."""
        if initial_window_bytes is not None:
            self._initial_bytes = initial_window_bytes
            for stream in self._waiting.values():
                self._queue(stream)
        if max_frame_bytes is not None:
            self._max_frame_bytes = max_frame_bytes

    def flush(self) -> list[Stream]:
        """Send what the windows allow, a frame of each waiting stream in turn. The streams that this has ended."""
        ended: list[Stream] = []
        while self._turns and self._window_bytes > 0 and not self.held:
            stream = self._turns.popleft()
            stream.in_turn = False
            if not stream.waiting or not self._send_piece(stream, stream.waiting):
                continue
            if stream.waiting:
                self._queue(stream)
                continue
            del self._waiting[stream.stream_id]
            if stream.last_block is not None:
                self.end(stream, stream.last_block)
                ended.append(stream)
        return ended

    def _queue(self, stream: Stream) -> None:
        if stream.waiting and not stream.in_turn:
            stream.in_turn = True
            self._turns.append(stream)

    def _send_piece(self, stream: Stream, waiting: deque[memoryview]) -> bool:
        """Whether the stream's window was open."""
        room = min(self._window_bytes, self._initial_bytes + stream.credit_bytes, self._max_frame_bytes)
        if room <= 0:
            return False
        first = waiting[0]
        size = min(len(first), room)
        if size == len(first):
            waiting.popleft()
        else:
            waiting[0] = first[size:]
        self.output += (frame_header(DATA, 0, stream.stream_id, size), bytes(first[:size]))
        self.unsent_bytes -= size
        self._window_bytes -= size
        stream.credit_bytes -= size
        self.sent_frames += 1
        return True
