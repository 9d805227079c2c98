"""The streams of a connection that are open, and those that were recently closed."""

from picker.grpc_server.http2 import limits
from picker.grpc_server.http2.events import ConnectionFailure
from picker.grpc_server.http2.frames import ErrorCode
from picker.grpc_server.http2.outbound import Stream


class Streams:
    """Stream numbers of one connection. Clients open streams with odd, increasing numbers (RFC 9113, section 5.1.1)."""

    def __init__(self) -> None:
        self.open: dict[int, Stream] = {}
        self.highest = 0
        self._skipped_to = 0
        self._recently_closed: dict[int, None] = {}

    def is_new(self, stream_id: int) -> bool:
        """Returns whether a header block on this stream begins a request; if so, marks the number as used."""
        if stream_id <= self.highest:
            return False
        if stream_id > self.highest + 2:
            self._skipped_to = stream_id - 2
        self.highest = stream_id
        return True

    def close_stream(self, stream_id: int) -> None:
        """Records that the server has closed the stream: frames on it may still arrive, and are ignored."""
        self.open.pop(stream_id, None)
        if len(self._recently_closed) >= limits.RECENTLY_CLOSED_STREAMS:
            del self._recently_closed[next(iter(self._recently_closed))]
        self._recently_closed[stream_id] = None

    def recently_closed(self, stream_id: int) -> bool:
        return stream_id in self._recently_closed

    def check_not_idle(self, stream_id: int, frame_type: str) -> None:
        """Raises ConnectionFailure if the stream is idle, that is, was never opened."""
        if stream_id > self.highest or stream_id % 2 == 0:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"{frame_type} on idle stream {stream_id}")

    def check_recently_closed(self, stream_id: int) -> None:
        """Checks HEADERS on a stream that is neither open nor new. Raises ConnectionFailure unless the server closed it
        recently."""
        if stream_id in self._recently_closed:
            return
        if stream_id <= self._skipped_to:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} opened after a higher-numbered one")
        raise ConnectionFailure(ErrorCode.STREAM_CLOSED, f"HEADERS on closed stream {stream_id}")
