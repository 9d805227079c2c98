"""The SETTINGS of both sides (RFC 9113, section 6.5.2)."""

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
"""The server's connection preface."""

SETTINGS_ACK = frames.frame(frames.SETTINGS, frames.ACK, 0)


@dataclass(slots=True)
class PeerSettings:
    """The peer's settings that matter to a server without a dynamic table, push, or streams of its own. None means
    unchanged."""

    initial_window_bytes: int | None = None
    max_frame_bytes: int | None = None


def read_settings(payload: bytes) -> PeerSettings:
    """Returns the last value of each setting in a SETTINGS frame's payload. Raises ConnectionFailure."""
    if len(payload) % 6:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes is not a multiple of 6")
    settings = PeerSettings()
    for name, value in frames.iter_settings(payload):
        if name == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW_BYTES:
                raise ConnectionFailure(
                    ErrorCode.FLOW_CONTROL_ERROR,
                    f"SETTINGS_INITIAL_WINDOW_SIZE {value} exceeds {frames.MAX_WINDOW_BYTES}",
                )
            settings.initial_window_bytes = value
        elif name == Setting.MAX_FRAME_SIZE:
            if not frames.MIN_MAX_FRAME_BYTES <= value <= frames.MAX_MAX_FRAME_BYTES:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"invalid SETTINGS_MAX_FRAME_SIZE {value}")
            settings.max_frame_bytes = value
        elif name == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"invalid SETTINGS_ENABLE_PUSH {value}")
    return settings
