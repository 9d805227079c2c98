"""What the payload of each frame has to look like (RFC 9113, section 6). Everything here raises ConnectionFailure, or
StreamFailure where only the frame's stream is at fault."""

from picker.grpc_server.http2 import frames, limits
from picker.grpc_server.http2.events import ConnectionFailure, StreamFailure
from picker.grpc_server.http2.frames import ErrorCode


def unpadded(payload: bytes) -> bytes:
    """What is between the length of the padding and the padding."""
    if not payload or payload[0] >= len(payload):
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def header_block(payload: bytes, flags: int, stream_id: int) -> bytes:
    """The (first) fragment of a header block in a HEADERS frame."""
    if stream_id % 2 == 0:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
    if flags & frames.PADDED:
        payload = unpadded(payload)
    if flags & frames.PRIORITIZED:
        if len(payload) < 5:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for their priority")
        if _word(payload) == stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
        payload = payload[5:]
    bounded(payload)
    return payload


def bounded(block: bytes) -> None:
    """Check the length of a header block, or of as much of it as has come."""
    if len(block) > limits.MAX_HEADER_BYTES:
        raise ConnectionFailure(
            ErrorCode.ENHANCE_YOUR_CALM, f"headers of {len(block)} bytes; {limits.MAX_HEADER_BYTES} are allowed"
        )


def check_priority(payload: bytes, stream_id: int) -> None:
    """Priorities are ignored, once they are well-formed."""
    if stream_id == 0:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
    if len(payload) != 5:
        raise StreamFailure(stream_id, ErrorCode.FRAME_SIZE_ERROR)
    if _word(payload) == stream_id:
        raise StreamFailure(stream_id, ErrorCode.PROTOCOL_ERROR)


def reset_code(payload: bytes) -> int:
    """Of RST_STREAM."""
    if len(payload) != 4:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} bytes")
    return frames.read_word(payload)[0]


def window_increment(payload: bytes, stream_id: int) -> int:
    """Of WINDOW_UPDATE."""
    if len(payload) != 4:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {len(payload)} bytes")
    increment = _word(payload)
    if increment == 0:
        if stream_id == 0:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "a window opened by nothing")
        raise StreamFailure(stream_id, ErrorCode.PROTOCOL_ERROR)
    return increment


def check_ping(payload: bytes, stream_id: int) -> None:
    if stream_id:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
    if len(payload) != 8:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes")


def check_goaway(payload: bytes, stream_id: int) -> None:
    if stream_id:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
    if len(payload) < 8:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes")


def _word(payload: bytes) -> int:
    """The first 31 bits after a reserved one."""
    return frames.read_word(payload)[0] & frames.MAX_STREAM_ID
