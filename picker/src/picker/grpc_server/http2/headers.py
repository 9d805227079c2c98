"""Header blocks: those of requests are decoded and checked, those of responses are encoded.

The server forbids a dynamic table (SETTINGS_HEADER_TABLE_SIZE 0). Once the peer complies, equal blocks always mean the
same headers. A proxy sends the same few blocks repeatedly, so that decoded requests are cached by the bytes of their
block."""

import re
from collections.abc import Iterable
from types import MappingProxyType

import hpack
import msgspec
from hpack.exceptions import HPACKError, OversizedHeaderListError

from picker.grpc_server.http2.header_fields import Field, FieldCache, MalformedHeaders, check_field
from picker.grpc_server.http2.limits import MAX_HEADER_BYTES

CACHED_BLOCKS = 256
"""Limit on cached blocks. A proxy sends one for each kind of call and its metadata. If tracing makes every block
different, the cache costs this many blocks (at most 16 KiB each), and `FieldCache` reads them field by field."""

_SIZE_UPDATE = re.compile(rb"\x20*[\x21-\x3f]")
"""A block that begins with a dynamic table size update to another size than 0 (RFC 7541, section 6.3)."""

_PSEUDO = frozenset((":method", ":scheme", ":authority", ":path"))
_OK = (":status", "200")  # In the static table; any other pair would be added to the peer's dynamic table.


class CallHeaders(msgspec.Struct, frozen=True, gc=False):
    """A request's headers. Names are in lower case; the values of a repeated name are joined by commas."""

    method: str
    path: str
    headers: MappingProxyType[str, str]
    content_length: int | None


class UndecodableHeaders(Exception):
    """The block does not decode. The connection is closed, because later blocks depend on this one."""


class OversizedHeaders(Exception):
    """The block decodes to more than MAX_HEADER_BYTES."""


class HeaderBlockCache:
    """Decoded requests by the bytes of their blocks, shared by all connections of a server."""

    def __init__(self) -> None:
        self.fields = FieldCache()
        self._requests: dict[bytes, CallHeaders] = {}

    def get(self, block: bytes) -> CallHeaders | None:
        return self._requests.get(block)

    def keep(self, block: bytes, headers: CallHeaders) -> None:
        if len(self._requests) >= CACHED_BLOCKS:
            del self._requests[next(iter(self._requests))]
        self._requests[block] = headers


class HeaderReader:
    """Decodes the blocks of one connection, in the order of their arrival: while the peer uses a dynamic table, a block
    may depend on those before it."""

    def __init__(self, cache: HeaderBlockCache) -> None:
        self._cache = cache
        self._decoder = hpack.Decoder(max_header_list_size=MAX_HEADER_BYTES)
        self._table_disabled = False
        self._stateless = False

    def dynamic_table_disabled(self) -> None:
        """Records that the peer has acknowledged SETTINGS_HEADER_TABLE_SIZE 0.

        A peer that still refers to its old table is decoded, although the RFC forbids it. It may not create a new
        one."""
        self._table_disabled = True

    def request(self, block: bytes) -> CallHeaders:
        """Decodes and checks a request's headers. Raises MalformedHeaders, OversizedHeaders, UndecodableHeaders."""
        if self._stateless and (headers := self._cache.get(block)) is not None:
            return headers
        fields = self._cache.fields.read(block) if self._stateless else None
        headers = _request(fields or _checked(self._decode(block)))
        if self._stateless:
            self._cache.keep(block, headers)
        else:
            self._stateless = self._table_disabled and self._decoder.header_table_size == 0
        return headers

    def trailers(self, block: bytes) -> bool:
        """Returns whether request trailers are malformed; their content is ignored. Raises OversizedHeaders,
        UndecodableHeaders."""
        fields = self._decode(block)
        try:
            _checked(fields)
        except MalformedHeaders:
            return True
        return any(name.startswith(":") for name, _ in fields)

    def _decode(self, block: bytes) -> list[Field]:
        if self._table_disabled and _SIZE_UPDATE.match(block):
            raise UndecodableHeaders("dynamic table size update above SETTINGS_HEADER_TABLE_SIZE 0")
        try:
            fields = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError as error:
            raise OversizedHeaders(f"header list over {MAX_HEADER_BYTES} bytes") from error
        except HPACKError as error:
            raise UndecodableHeaders(str(error)) from error
        return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in fields]


def _checked(fields: list[Field]) -> list[Field]:
    """Returns `fields`. Raises MalformedHeaders."""
    for name, value in fields:
        check_field(name, value)
    return fields


def _request(fields: list[Field]) -> CallHeaders:
    pseudo: dict[str, str] = {}
    headers: dict[str, str] = {}
    for name, value in fields:
        if name.startswith(":"):
            if name not in _PSEUDO or name in pseudo or headers:
                raise MalformedHeaders(f"pseudo-header field {name} is unknown, repeated, or after regular fields")
            pseudo[name] = value
        else:
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    if not pseudo.get(":path") or not pseudo.get(":method") or not pseudo.get(":scheme"):
        raise MalformedHeaders("missing pseudo-header field: :method, :scheme and :path are required")
    length = headers.get("content-length")
    if length is not None and not (length.isascii() and length.isdigit()):
        raise MalformedHeaders("content-length is not a number")
    return CallHeaders(
        method=pseudo[":method"],
        path=pseudo[":path"],
        headers=MappingProxyType(headers),
        content_length=int(length[:20]) if length is not None else None,
    )


def encode_headers(fields: Iterable[tuple[str, str]]) -> bytes:
    """Encodes a header block without the dynamic table: literals, and fields of the static table.

    The block does not depend on the state of a connection, so that it can be sent on any connection at any time."""
    return hpack.Encoder().encode(
        [field if field == _OK else hpack.NeverIndexedHeaderTuple(*field) for field in fields], huffman=False
    )
