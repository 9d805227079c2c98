"""A decoder of header blocks field by field (RFC 7541, section 6), for peers that use no dynamic table.

Without that table, equal bytes of a field always mean the same, so that decoded fields are cached by their bytes. If
tracing puts a new id into every block, only that field has to be decoded."""

import re

import hpack
from hpack.exceptions import HPACKError

from picker.grpc_server.http2.limits import MAX_HEADER_BYTES

CACHED_FIELDS = 1024
"""Limit on cached fields. A block has about ten. The oldest field is evicted first, so that fields seen once do not
accumulate."""

_STATIC_FIELDS = 61
_OVERHEAD_BYTES = 32
"""Overhead of a field in the size of a header list (section 4.1)."""

_NOT_IN_NAMES = re.compile(r"[^!-@\[-~]")
_NOT_IN_VALUES = re.compile(r"[\0\r\n]")
_CONNECTION_SPECIFIC = frozenset(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"))

Field = tuple[str, str]


class MalformedHeaders(Exception):
    """The block decodes, but is not a valid request (RFC 9113, section 8.1.1): a stream error."""


def check_field(name: str, value: str) -> None:
    """Checks a field against RFC 9113, sections 8.2.1 and 8.2.2. Raises MalformedHeaders."""
    if not name or _NOT_IN_NAMES.search(name):
        raise MalformedHeaders(f"invalid field name {name!r}")
    if _NOT_IN_VALUES.search(value):
        raise MalformedHeaders(f"NUL, CR or LF in the value of {name}")
    if name in _CONNECTION_SPECIFIC or (name == "te" and value != "trailers"):
        raise MalformedHeaders(f"connection-specific field {name}")


class FieldCache:
    """Decoded fields by their bytes, shared by all connections of a server."""

    def __init__(self) -> None:
        self._fields: dict[bytes, Field] = {}
        self._decoder = hpack.Decoder(max_header_list_size=MAX_HEADER_BYTES)
        self._decoder.header_table_size = 0

    def __len__(self) -> int:
        return len(self._fields)

    def read(self, block: bytes) -> list[Field] | None:
        """Returns the checked fields of `block`; None if it holds anything unusual, so that a full decoder must read
        it."""
        fields: list[Field] = []
        cached = self._fields.get
        size = 0
        try:
            at, end = 0, len(block)
            while at < end and block[at] == _TABLE_SIZE_ZERO:
                at += 1
            while at < end:
                start, at = at, _field_end(block, at)
                data = block[start:at]
                field = cached(data) or self._decode(data)
                size += len(field[0]) + len(field[1]) + _OVERHEAD_BYTES
                fields.append(field)
        except (IndexError, HPACKError, MalformedHeaders, _Unusual):
            return None
        return fields if at == end and size <= MAX_HEADER_BYTES else None

    def _decode(self, data: bytes) -> Field:
        [(name, value)] = self._decoder.decode(data, raw=True)
        field = bytes(name).decode("latin-1"), bytes(value).decode("latin-1")
        check_field(*field)
        if len(self._fields) >= CACHED_FIELDS:
            del self._fields[next(iter(self._fields))]
        self._fields[data] = field
        return field


_TABLE_SIZE_ZERO = 0x20
"""A dynamic table size update to 0, which changes nothing."""


class _Unusual(Exception):
    """The block uses something that a sender without a dynamic table does not use."""


def _field_end(block: bytes, at: int) -> int:
    first = block[at]
    if first >= 0x80:
        if not 0x80 < first <= 0x80 + _STATIC_FIELDS:
            raise _Unusual
        return at + 1
    if first >= 0x40:
        name, more = first & 0x3F, 0x3F
    elif first >= _TABLE_SIZE_ZERO:
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
    """Returns the integer after a full prefix (section 5.1), and where it ends."""
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
