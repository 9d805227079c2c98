"""Header blocks assembled from HEADERS and CONTINUATION frames (RFC 9113, sections 6.2 and 6.10)."""

import msgspec

from picker.grpc_server.http2 import frames, limits, payloads
from picker.grpc_server.http2.events import ConnectionFailure
from picker.grpc_server.http2.frames import ErrorCode


class Block(msgspec.Struct, gc=False):
    """A header block, which may be incomplete. `ended`: END_STREAM was set on its HEADERS frame."""

    stream_id: int
    ended: bool
    data: bytes
    continuations: int = 0


class BlockReader:
    """Assembles the header blocks of one connection."""

    __slots__ = ("incomplete",)

    def __init__(self) -> None:
        self.incomplete: Block | None = None
        """The incomplete block; only its CONTINUATION frames may follow."""

    def check_complete(self) -> None:
        """Raises ConnectionFailure if a header block is incomplete: only a CONTINUATION may follow it."""
        if self.incomplete is not None:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "another frame within a header block")

    def headers(self, payload: bytes, flags: int, stream_id: int) -> Block | None:
        """Returns the block if this frame completes it, else None. Raises ConnectionFailure."""
        fragment = payloads.header_block(payload, flags, stream_id)
        block = Block(stream_id, flags & frames.END_STREAM != 0, fragment)
        if flags & frames.END_HEADERS:
            return block
        self.incomplete = block
        return None

    def continuation(self, payload: bytes, flags: int, stream_id: int) -> Block | None:
        """Returns the block if this frame completes it, else None. Raises ConnectionFailure."""
        block = self.incomplete
        if block is None or block.stream_id != stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a preceding HEADERS frame")
        block.data += payload
        payloads.check_block_size(block.data)
        block.continuations += 1
        if block.continuations > limits.MAX_CONTINUATIONS:
            raise ConnectionFailure(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"more than {limits.MAX_CONTINUATIONS} CONTINUATION frames in a header block",
            )
        if not flags & frames.END_HEADERS:
            return None
        self.incomplete = None
        return block
