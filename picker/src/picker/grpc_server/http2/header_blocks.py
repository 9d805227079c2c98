"""Header blocks put together from HEADERS and CONTINUATION (RFC 9113, sections 6.2 and 6.10)."""

import msgspec

from picker.grpc_server.http2 import frames, limits, payloads
from picker.grpc_server.http2.events import ConnectionFailure
from picker.grpc_server.http2.frames import ErrorCode


class Block(msgspec.Struct, gc=False):
    """A header block, complete or not. `ended`: nothing follows it on its stream."""

    stream_id: int
    ended: bool
    data: bytes
    continuations: int = 0


class BlockReader:
    """Gives a block when it is complete."""

    __slots__ = ("begun",)

    def __init__(self) -> None:
        self.begun: Block | None = None
        """One that CONTINUATIONs have still to complete."""

    def check_finished(self) -> None:
        """Raises ConnectionFailure while nothing but a CONTINUATION may come."""
        if self.begun is not None:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "a header block was left unfinished")

    def headers(self, payload: bytes, flags: int, stream_id: int) -> Block | None:
        """Raises ConnectionFailure."""
        fragment = payloads.header_block(payload, flags, stream_id)
        block = Block(stream_id, flags & frames.END_STREAM != 0, fragment)
        if flags & frames.END_HEADERS:
            return block
        self.begun = block
        return None

    def continuation(self, payload: bytes, flags: int, stream_id: int) -> Block | None:
        """Raises ConnectionFailure."""
        block = self.begun
        if block is None or block.stream_id != stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        block.data += payload
        payloads.bounded(block.data)
        block.continuations += 1
        if block.continuations > limits.MAX_CONTINUATIONS:
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, f"over {limits.MAX_CONTINUATIONS} CONTINUATIONs")
        if not flags & frames.END_HEADERS:
            return None
        self.begun = None
        return block
