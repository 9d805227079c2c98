"""Flow control of the receiving side (RFC 9113, section 5.2): what the peer may still send, and when more."""

from picker.grpc_server.http2 import frames, limits
from picker.grpc_server.http2.events import ConnectionFailure, StreamFailure
from picker.grpc_server.http2.frames import ErrorCode
from picker.grpc_server.http2.outbound import OutboundStreams, Stream


class InboundStreams:
    """The receive windows. They are replenished when half is used, so that a WINDOW_UPDATE covers megabytes and not
    frames."""

    __slots__ = ("_sending", "_window_bytes")

    def __init__(self, sending: OutboundStreams) -> None:
        self._sending = sending
        self._window_bytes = limits.CONNECTION_WINDOW_BYTES

    def consume_window(self, length: int, stream: Stream | None, ended: bool) -> None:
        """Counts `length` bytes of DATA payload, padding included, on `stream`; None if no such stream is open. Raises
        ConnectionFailure, StreamFailure."""
        self._window_bytes -= length
        if self._window_bytes < 0:
            raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "DATA exceeds the connection's window")
        if stream is None:
            return
        stream.window_in_bytes -= length
        if stream.window_in_bytes < 0:
            raise StreamFailure(stream.stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        if stream.window_in_bytes <= limits.STREAM_WINDOW_BYTES // 2 and not ended:
            self._sending.output.append(
                frames.window_update(stream.stream_id, limits.STREAM_WINDOW_BYTES - stream.window_in_bytes)
            )
            stream.window_in_bytes = limits.STREAM_WINDOW_BYTES

    def replenish_window(self) -> None:
        """Replenishes the connection's window, unless the peer does not read the responses to what it has sent."""
        if (
            self._window_bytes <= limits.CONNECTION_WINDOW_BYTES // 2
            and self._sending.unsent_bytes <= limits.UNSENT_BYTES
        ):
            self._sending.output.append(frames.window_update(0, limits.CONNECTION_WINDOW_BYTES - self._window_bytes))
            self._window_bytes = limits.CONNECTION_WINDOW_BYTES
