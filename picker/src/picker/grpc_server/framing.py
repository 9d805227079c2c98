"""Length-prefixed messages (gRPC over HTTP/2, "Length-Prefixed-Message"): a compression flag, a length of four bytes,
the message."""

import struct

from picker.grpc_server.status import RpcError, Status

PREFIX_BYTES = 5

MAX_MESSAGE_BYTES = 64 << 20
"""Largest message. A proxy's buffered body is one message. The limit is far above the largest body that a service
reads: a message over it fails the call, and the proxy may then let the request pass. A service can answer a body that
is too large itself."""

FEW_PARTS, SMALL_PART_BYTES = 64, 1 << 10
"""Parts beyond this number that are smaller than this on average are joined before the message is complete. A part
costs about 50 bytes on top of its data, and a peer may send single bytes."""

_PREFIX = struct.Struct(">BI")


def framed(message: bytes) -> bytes:
    return _PREFIX.pack(0, len(message)) + message


class MessageReader:
    """Reassembles the messages of one call."""

    __slots__ = ("_parts", "held_bytes")

    def __init__(self) -> None:
        self.held_bytes = 0
        """Bytes of the incomplete message."""
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Returns the messages that `data` completes. Raises RpcError."""
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
        """Returns all held bytes without the first `skipped`. A large message is copied here, and only here."""
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
    """Size of the message at `position`, including its prefix. Raises RpcError."""
    flag, length = _PREFIX.unpack_from(data, position)
    if flag:
        raise RpcError(
            Status.UNIMPLEMENTED if flag == 1 else Status.INTERNAL,
            f"unsupported compressed flag {flag}: only identity is supported",
        )
    if length > MAX_MESSAGE_BYTES:
        raise RpcError(Status.RESOURCE_EXHAUSTED, f"message of {length} bytes exceeds the limit of {MAX_MESSAGE_BYTES}")
    return PREFIX_BYTES + length
