"""Header blocks field by field (RFC 7541, section 6), for peers that use no dynamic table: then each field means the
same wherever it stands, and is kept by its bytes.

Where tracing puts another id into every block, this leaves one field to decode instead of all."""

import re

import hpack
from hpack.exceptions import HPACKError

from picker.grpc_server.http2.limits import MAX_HEADER_BYTES

CACHED_FIELDS = 1024
"""A block has about ten; of those that are never seen again the oldest make room."""

_STATIC_FIELDS = 61
_OVERHEAD_BYTES = 32
"""Of a field, in the size of a list (section 4.1)."""

_NOT_IN_NAMES = re.compile(r"[^!-@\[-~]")
_NOT_IN_VALUES = re.compile(r"[\0\r\n]")
_OF_A_CONNECTION = frozenset(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"))

Field = tuple[str, str]


class MalformedHeaders(Exception):
    """The block decodes, but to no request (RFC 9113, section 8.1.1); the block's stream is at fault."""


def check_field(name: str, value: str) -> None:
    """RFC 9113, sections 8.2.1 and 8.2.2. Raises MalformedHeaders."""
    if not name or _NOT_IN_NAMES.search(name):
        raise MalformedHeaders(f"{name!r} is no header name")
    if _NOT_IN_VALUES.search(value):
        raise MalformedHeaders(f"the value of {name} holds a line end")
    if name in _OF_A_CONNECTION or (name == "te" and value != "trailers"):
        raise MalformedHeaders(f"{name} is not for HTTP/2")


class FieldCache:
    """Fields by their bytes, for all connections of a server."""

    def __init__(self) -> None:
        self._fields: dict[bytes, Field] = {}
        self._decoder = hpack.Decoder(max_header_list_size=MAX_HEADER_BYTES)
        self._decoder.header_table_size = 0

    def __len__(self) -> int:
        return len(self._fields)

    def read(self, block: bytes) -> list[Field] | None:
        """The fields of `block`, checked; None where anything about it is unusual, which is for a real decoder to
        judge."""
        found: list[Field] = []
        kept = self._fields.get
        size = 0
        try:
            at, end = 0, len(block)
            while at < end and block[at] == _NO_TABLE:
                at += 1
            while at < end:
                start, at = at, _field_end(block, at)
                data = block[start:at]
                field = kept(data) or self._decode(data)
                size += len(field[0]) + len(field[1]) + _OVERHEAD_BYTES
                found.append(field)
        except (IndexError, HPACKError, MalformedHeaders, _Unusual):
            return None
        return found if at == end and size <= MAX_HEADER_BYTES else None

    def _decode(self, data: bytes) -> Field:
        [(name, value)] = self._decoder.decode(data, raw=True)
        field = bytes(name).decode("latin-1"), bytes(value).decode("latin-1")
        check_field(*field)
        if len(self._fields) >= CACHED_FIELDS:
            del self._fields[next(iter(self._fields))]
        self._fields[data] = field
        return field


_NO_TABLE = 0x20
"""The dynamic table's size becomes 0, as it is."""


class _Unusual(Exception):
    """Not what a block holds whose sender uses no dynamic table."""


def _field_end(block: bytes, at: int) -> int:
    first = block[at]
    if first >= 0x80:
        if not 0x80 < first <= 0x80 + _STATIC_FIELDS:
            raise _Unusual
        return at + 1
    if first >= 0x40:
        name, more = first & 0x3F, 0x3F
    elif first >= _NO_TABLE:
        raise _Unusual
    else:
        name, more = first & 0x0F, 0x0F
    at += 1
    if name == more:
        rest, at = _integer(block, at)
        if name + rest > _STATIC_FIELDS:
            raise _Unusual
    elif not name:
        at = _string_end(block, at)
    return _string_end(block, at)


def _string_end(block: bytes, at: int) -> int:
    length = block[at] & 0x7F
    at += 1
    if length == 0x7F:
        rest, at = _integer(block, at)
        length += rest
    return at + length


def _integer(block: bytes, at: int) -> tuple[int, int]:
    """What follows a full prefix (section 5.1), and where it ends."""
    value = shift = 0
    while True:
        byte = block[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 28:
            raise _Unusual
