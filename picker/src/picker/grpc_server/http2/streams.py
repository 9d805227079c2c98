"""Which streams a connection has, and had."""

from picker.grpc_server.http2 import limits
from picker.grpc_server.http2.events import ConnectionFailure
from picker.grpc_server.http2.frames import ErrorCode
from picker.grpc_server.http2.outbound import Stream


class Streams:
    """Clients open streams with odd, increasing numbers (RFC 9113, section 5.1.1)."""

    def __init__(self) -> None:
        self.open: dict[int, Stream] = {}
        self.highest = 0
        self._skipped_to = 0
        self._forgotten: dict[int, None] = {}

    def is_new(self, stream_id: int) -> bool:
        """Whether a header block on this stream begins a request; the number is used up by asking."""
        if stream_id <= self.highest:
            return False
        if stream_id > self.highest + 2:
            self._skipped_to = stream_id - 2
        self.highest = stream_id
        return True

    def close_stream(self, stream_id: int) -> None:
        """This side has ended the stream: frames for it may still be on their way, and mean nothing."""
        self.open.pop(stream_id, None)
        if len(self._forgotten) >= limits.RECENTLY_CLOSED_STREAMS:
            del self._forgotten[next(iter(self._forgotten))]
        self._forgotten[stream_id] = None

    def recently_closed(self, stream_id: int) -> bool:
        return stream_id in self._forgotten

    def check_not_idle(self, stream_id: int, what: str) -> None:
        """Raises ConnectionFailure if the stream has never been opened."""
        if stream_id > self.highest or stream_id % 2 == 0:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which was never opened")

    def check_recently_closed(self, stream_id: int) -> None:
        """HEADERS came on a stream that is neither open nor new. Raises ConnectionFailure unless it was forgotten."""
        if stream_id in self._forgotten:
            return
        if stream_id <= self._skipped_to:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} after a later one")
        raise ConnectionFailure(ErrorCode.STREAM_CLOSED, f"HEADERS on stream {stream_id}, which is closed")
