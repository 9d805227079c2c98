"""The events of a connection, and the exceptions for connection and stream errors."""

import msgspec

from picker.grpc_server.http2.frames import ErrorCode
from picker.grpc_server.http2.headers import CallHeaders


class RequestReceived(msgspec.Struct, frozen=True, gc=False):
    """The headers of a request have arrived. With `ended` it has no body."""

    stream_id: int
    headers: CallHeaders
    ended: bool


class DataReceived(msgspec.Struct, frozen=True, gc=False):
    """A piece of a request's body has arrived. `ended` marks the last piece, which may be empty."""

    stream_id: int
    data: bytes
    ended: bool


class StreamReset(msgspec.Struct, frozen=True, gc=False):
    """The stream is closed: the peer has reset it, or has broken the protocol on it."""

    stream_id: int
    code: int


class ConnectionTerminated(msgspec.Struct, frozen=True, gc=False):
    """The connection is closed with all its streams. The remaining output of `Connection.data_to_send` must be sent
    first."""

    code: ErrorCode
    detail: str


Event = RequestReceived | DataReceived | StreamReset | ConnectionTerminated


class ConnectionFailure(Exception):
    """A connection error (RFC 9113, section 5.4.1)."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class StreamFailure(Exception):
    """A stream error (section 5.4.2)."""

    def __init__(self, stream_id: int, code: ErrorCode) -> None:
        super().__init__(f"stream {stream_id}: {code.name}")
        self.stream_id = stream_id
        self.code = code
