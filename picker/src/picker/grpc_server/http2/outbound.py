"""The sending side of a connection: bytes ready to be written, and data that waits for the peer's windows."""

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
    """One stream: a request and its response. It lives until both sides have ended it or one has reset it."""

    stream_id: int
    window_in_bytes: int
    """What the peer may still send before a WINDOW_UPDATE."""
    body_left_bytes: int | None = None
    """Rest of the body announced by the request's content-length; None without that header."""
    ended_by_peer: bool = False
    answered: bool = False
    credit_bytes: int = 0
    """The sum of the peer's WINDOW_UPDATE increments, less what was sent; may be negative."""
    waiting: deque[memoryview] | None = None
    """Data that waits for the windows, the transport, or data before it; None on most streams."""
    queued: bool = False
    """Whether the stream is queued to send when the connection's window opens; False while its own window is closed."""
    trailers: bytes | None = None
    """Trailers that end the response after all its data."""


class OutboundStreams:
    """Writes frames as far as the peer's windows allow. The rest waits and is sent round-robin over the streams."""

    def __init__(self) -> None:
        self.output: list[bytes] = []
        self.paused = False
        """Whether data waits regardless of the windows, because the transport is full."""
        self.unsent_bytes = 0
        self.sent_frames = 0
        """DATA frames sent since the caller last set this to 0."""
        self._max_frame_bytes = MIN_MAX_FRAME_BYTES
        self._initial_bytes = INITIAL_WINDOW_BYTES
        self._window_bytes = INITIAL_WINDOW_BYTES
        self._waiting: dict[int, Stream] = {}
        self._ready: deque[Stream] = deque()

    def data_to_send(self) -> bytes:
        """Returns and clears the bytes that are ready to be written."""
        output = self.output
        if not output:
            return b""
        self.output = []
        return output[0] if len(output) == 1 else b"".join(output)

    def headers(self, stream: Stream, block: bytes) -> None:
        stream.answered = True
        self.output.append(frame(HEADERS, END_HEADERS, stream.stream_id, block))

    def data(self, stream: Stream, data: bytes) -> None:
        """Sends `data` at once if it fits one frame and the windows; otherwise queues it."""
        size = len(data)
        if not (
            stream.waiting
            or self.paused
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
        """Ends the response with the trailers in `block`, after its data. Returns whether it has ended already."""
        if stream.waiting:
            stream.trailers = block
            return False
        stream.answered = True
        self.output.append(frame(HEADERS, END_HEADERS | END_STREAM, stream.stream_id, block))
        return True

    def close_stream(self, stream: Stream) -> None:
        """Discards the data that waits on a closed stream."""
        if stream.waiting:
            self.unsent_bytes -= sum(map(len, stream.waiting))
            stream.waiting.clear()
            self._waiting.pop(stream.stream_id, None)

    def window_opened(self, increment_bytes: int) -> bool:
        """Adds to the connection's window. Returns False if it exceeds the maximum."""
        self._window_bytes += increment_bytes
        return self._window_bytes <= MAX_WINDOW_BYTES

    def stream_window_opened(self, stream: Stream, increment_bytes: int) -> bool:
        """Adds to a stream's window. Returns False if it exceeds the maximum."""
        stream.credit_bytes += increment_bytes
        self._queue(stream)
        return self._initial_bytes + stream.credit_bytes <= MAX_WINDOW_BYTES

    def configure(self, initial_window_bytes: int | None, max_frame_bytes: int | None) -> None:
        """Applies the peer's SETTINGS. The windows of all streams change with the initial one, and may become negative
        (section 6.9.2)."""
        if initial_window_bytes is not None:
            self._initial_bytes = initial_window_bytes
            for stream in self._waiting.values():
                self._queue(stream)
        if max_frame_bytes is not None:
            self._max_frame_bytes = max_frame_bytes

    def flush(self) -> list[Stream]:
        """Sends what the windows allow, one frame of each waiting stream in turn. Returns the streams that have
        ended."""
        ended: list[Stream] = []
        while self._ready and self._window_bytes > 0 and not self.paused:
            stream = self._ready.popleft()
            stream.queued = False
            if not stream.waiting or not self._send_piece(stream, stream.waiting):
                continue
            if stream.waiting:
                self._queue(stream)
                continue
            del self._waiting[stream.stream_id]
            if stream.trailers is not None:
                self.end(stream, stream.trailers)
                ended.append(stream)
        return ended

    def _queue(self, stream: Stream) -> None:
        if stream.waiting and not stream.queued:
            stream.queued = True
            self._ready.append(stream)

    def _send_piece(self, stream: Stream, waiting: deque[memoryview]) -> bool:
        """Sends one frame of `waiting`. Returns False if the stream's window is closed."""
        capacity = min(self._window_bytes, self._initial_bytes + stream.credit_bytes, self._max_frame_bytes)
        if capacity <= 0:
            return False
        first = waiting[0]
        size = min(len(first), capacity)
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
