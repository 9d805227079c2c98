"""Checks of the payload of each frame type (RFC 9113, section 6).

The functions raise ConnectionFailure, or StreamFailure where only the frame's stream is at fault."""

from picker.grpc_server.http2 import frames, limits
from picker.grpc_server.http2.events import ConnectionFailure, StreamFailure
from picker.grpc_server.http2.frames import ErrorCode


def unpadded(payload: bytes) -> bytes:
    """Returns the payload without its padding."""
    if not payload or payload[0] >= len(payload):
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "padding exceeds the frame's payload")
    return payload[1 : len(payload) - payload[0]]


def header_block(payload: bytes, flags: int, stream_id: int) -> bytes:
    """Returns the field block fragment of a HEADERS frame."""
    if stream_id % 2 == 0:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
    if flags & frames.PADDED:
        payload = unpadded(payload)
    if flags & frames.PRIORITIZED:
        if len(payload) < 5:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "HEADERS with PRIORITY flag of less than 5 bytes")
        if _word(payload) == stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} depends on itself")
        payload = payload[5:]
    check_block_size(payload)
    return payload


def check_block_size(block: bytes) -> None:
    """Checks the length of a header block, or of the part that has arrived."""
    if len(block) > limits.MAX_HEADER_BYTES:
        raise ConnectionFailure(
            ErrorCode.ENHANCE_YOUR_CALM,
            f"header block of {len(block)} bytes exceeds the limit of {limits.MAX_HEADER_BYTES}",
        )


def check_priority(payload: bytes, stream_id: int) -> None:
    """Checks a PRIORITY frame; a well-formed one is ignored."""
    if stream_id == 0:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
    if len(payload) != 5:
        raise StreamFailure(stream_id, ErrorCode.FRAME_SIZE_ERROR)
    if _word(payload) == stream_id:
        raise StreamFailure(stream_id, ErrorCode.PROTOCOL_ERROR)


def reset_code(payload: bytes) -> int:
    """Returns the error code of RST_STREAM."""
    if len(payload) != 4:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} bytes")
    return frames.read_word(payload)[0]


def window_increment(payload: bytes, stream_id: int) -> int:
    """Returns the increment of WINDOW_UPDATE."""
    if len(payload) != 4:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {len(payload)} bytes")
    increment = _word(payload)
    if increment == 0:
        if stream_id == 0:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE with an increment of 0")
        raise StreamFailure(stream_id, ErrorCode.PROTOCOL_ERROR)
    return increment


def check_ping(payload: bytes, stream_id: int) -> None:
    if stream_id:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"PING on stream {stream_id}")
    if len(payload) != 8:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes")


def check_goaway(payload: bytes, stream_id: int) -> None:
    if stream_id:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"GOAWAY on stream {stream_id}")
    if len(payload) < 8:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes")


def _word(payload: bytes) -> int:
    """Returns the 31 bits after a reserved bit."""
    return frames.read_word(payload)[0] & frames.MAX_STREAM_ID
