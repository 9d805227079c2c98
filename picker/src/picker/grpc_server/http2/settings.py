"""SETTINGS of both sides (RFC 9113, section 6.5.2)."""

from dataclasses import dataclass

from picker.grpc_server.http2 import frames, limits
from picker.grpc_server.http2.events import ConnectionFailure
from picker.grpc_server.http2.frames import ErrorCode, Setting

SERVER_PREFACE = frames.settings_frame(
    {
        Setting.HEADER_TABLE_SIZE: 0,
        Setting.MAX_CONCURRENT_STREAMS: limits.MAX_STREAMS,
        Setting.INITIAL_WINDOW_SIZE: limits.STREAM_WINDOW_BYTES,
        Setting.MAX_HEADER_LIST_SIZE: limits.MAX_HEADER_BYTES,
    }
) + frames.window_update(0, limits.CONNECTION_WINDOW_BYTES - frames.INITIAL_WINDOW_BYTES)
"""What this side says first."""

SETTINGS_ACK = frames.frame(frames.SETTINGS, frames.ACK, 0)


@dataclass(slots=True)
class PeerSettings:
    """Those that matter to a server that uses no dynamic table, pushes nothing, and opens no streams. None where the
    frame leaves one as it was."""

    initial_window_bytes: int | None = None
    max_frame_bytes: int | None = None


def read_settings(payload: bytes) -> PeerSettings:
    """The last value of each in a SETTINGS frame's payload. Raises ConnectionFailure."""
    if len(payload) % 6:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS")
    settings = PeerSettings()
    for name, value in frames.iter_settings(payload):
        if name == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW_BYTES:
                raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, f"an initial window of {value} bytes")
            settings.initial_window_bytes = value
        elif name == Setting.MAX_FRAME_SIZE:
            if not frames.MIN_MAX_FRAME_BYTES <= value <= frames.MAX_MAX_FRAME_BYTES:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"frames of at most {value} bytes")
            settings.max_frame_bytes = value
        elif name == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
    return settings
