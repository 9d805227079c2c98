"""Length-prefixed messages (gRPC over HTTP/2, "Length-Prefixed-Message"): a flag, four bytes of length, the message."""

import struct

from picker.grpc_server.status import RpcError, Status

PREFIX_BYTES = 5

MAX_MESSAGE_BYTES = 64 << 20
"""A proxy's buffered body is one message. Far above the largest body that the picker reads, because what is refused
here is a failed call, which may let the request pass unpicked; a body that is too large is answered 413 instead."""

FEW_PARTS, SMALL_PART_BYTES = 64, 1 << 10
"""More parts than that, and smaller ones on average, are joined before the message is complete: a part weighs some 50
bytes more than its data, and a peer may send them one byte at a time."""

_PREFIX = struct.Struct(">BI")


def framed(message: bytes) -> bytes:
    return _PREFIX.pack(0, len(message)) + message


class MessageReader:
    """Puts one call's messages together again."""

    __slots__ = ("_parts", "held_bytes")

    def __init__(self) -> None:
        self.held_bytes = 0
        """Of a message that is not complete yet."""
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes. Raises RpcError."""
        if self.held_bytes:
            self._hold(data)
            first = self._parts[0]
            if len(first) >= PREFIX_BYTES:
                missing = _size(first, 0) - self.held_bytes
                if missing > 0:
                    return []
                if missing == 0:
                    return [self._take(PREFIX_BYTES)]
            data = self._take(0)
        messages: list[bytes] = []
        position, end = 0, len(data)
        if end >= PREFIX_BYTES and _size(data, 0) == end:
            return [data[PREFIX_BYTES:]]
        while end - position >= PREFIX_BYTES:
            size = _size(data, position)
            if position + size > end:
                break
            messages.append(data[position + PREFIX_BYTES : position + size])
            position += size
        if position < end:
            self._hold(data[position:] if position else data)
        return messages

    def _take(self, skipped: int) -> bytes:
        """All that is held but its first bytes. Large messages are copied here once and no more."""
        self._parts[0] = self._parts[0][skipped:]
        held = b"".join(self._parts)
        self._parts.clear()
        self.held_bytes = 0
        return held

    def _hold(self, data: bytes) -> None:
        self._parts.append(data)
        self.held_bytes += len(data)
        if len(self._parts) > FEW_PARTS and self.held_bytes < len(self._parts) * SMALL_PART_BYTES:
            self._parts = [b"".join(self._parts)]


def _size(data: bytes, position: int) -> int:
    """Of the message at `position`, its prefix included. Raises RpcError."""
    flag, length = _PREFIX.unpack_from(data, position)
    if flag:
        raise RpcError(
            Status.UNIMPLEMENTED if flag == 1 else Status.INTERNAL, "Compressed messages are not read; use identity."
        )
    if length > MAX_MESSAGE_BYTES:
        raise RpcError(Status.RESOURCE_EXHAUSTED, f"The message is {length} bytes, {MAX_MESSAGE_BYTES} are allowed.")
    return PREFIX_BYTES + length
