"""Header blocks: a request's decoded and checked, an answer's encoded.

The peer is told to use no dynamic table (SETTINGS_HEADER_TABLE_SIZE 0). Once it does, a block stands for the same
headers whenever it comes, and a proxy sends the same few blocks over and over: they are kept by their bytes."""

import re
from collections.abc import Iterable
from types import MappingProxyType

import hpack
import msgspec
from hpack.exceptions import HPACKError, OversizedHeaderListError

from picker.grpc_server.http2.header_fields import Field, FieldCache, MalformedHeaders, check_field
from picker.grpc_server.http2.limits import MAX_HEADER_BYTES

CACHED_BLOCKS = 256
"""A proxy sends one for each pool and kind of call. Where tracing makes every block another, it costs this much memory
(at most 16 KiB each), and the fields are found one by one."""

_SIZE_UPDATE = re.compile(rb"\x20*[\x21-\x3f]")
"""A block that begins by giving the dynamic table another size than 0 (RFC 7541, section 6.3)."""

_PSEUDO = frozenset((":method", ":scheme", ":authority", ":path"))
_OK = (":status", "200")  # In the static table as it stands; any other pair would be entered in the peer's.


class CallHeaders(msgspec.Struct, frozen=True, gc=False):
    """A request's headers; names are in lower case, of a repeated one the values are joined by commas."""

    method: str
    path: str
    headers: MappingProxyType[str, str]
    content_length: int | None


class UndecodableHeaders(Exception):
    """The block does not decode; the connection is lost, for nobody knows what the following ones mean."""


class OversizedHeaders(Exception):
    """The block decodes to more than MAX_HEADER_BYTES."""


class HeaderBlockCache:
    """Requests by the bytes of their blocks, for all connections of a server."""

    def __init__(self) -> None:
        self.fields = FieldCache()
        self._heads: dict[bytes, CallHeaders] = {}

    def get(self, block: bytes) -> CallHeaders | None:
        return self._heads.get(block)

    def keep(self, block: bytes, head: CallHeaders) -> None:
        if len(self._heads) >= CACHED_BLOCKS:
            del self._heads[next(iter(self._heads))]
        self._heads[block] = head


class HeaderReader:
    """Decodes one connection's blocks, in the order in which they came: until the peer has given up its dynamic table,
    a block may mean something only after those before it."""

    def __init__(self, kept: HeaderBlockCache) -> None:
        self._kept = kept
        self._decoder = hpack.Decoder(max_header_list_size=MAX_HEADER_BYTES)
        self._no_table = False
        self._stateless = False

    def dynamic_table_disabled(self) -> None:
        """The peer has acknowledged SETTINGS_HEADER_TABLE_SIZE 0. One that goes on with the table it had is understood,
        though it should not; it must not make a new one."""
        self._no_table = True

    def request(self, block: bytes) -> CallHeaders:
        """Raises MalformedHeaders, OversizedHeaders, UndecodableHeaders."""
        if self._stateless and (head := self._kept.get(block)) is not None:
            return head
        fields = self._kept.fields.read(block) if self._stateless else None
        head = _request(fields or _checked(self._decode(block)))
        if self._stateless:
            self._kept.keep(block, head)
        else:
            self._stateless = self._no_table and self._decoder.header_table_size == 0
        return head

    def trailers(self, block: bytes) -> bool:
        """Whether request trailers, which are ignored, are malformed. Raises OversizedHeaders, UndecodableHeaders."""
        fields = self._decode(block)
        try:
            _checked(fields)
        except MalformedHeaders:
            return True
        return any(name.startswith(":") for name, _ in fields)

    def _decode(self, block: bytes) -> list[Field]:
        if self._no_table and _SIZE_UPDATE.match(block):
            raise UndecodableHeaders("a dynamic table, after none was allowed")
        try:
            fields = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError as error:
            raise OversizedHeaders(f"more than {MAX_HEADER_BYTES} bytes of headers") from error
        except HPACKError as error:
            raise UndecodableHeaders(str(error)) from error
        return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in fields]


def _checked(fields: list[Field]) -> list[Field]:
    """Raises MalformedHeaders."""
    for name, value in fields:
        check_field(name, value)
    return fields


def _request(fields: list[Field]) -> CallHeaders:
    pseudo: dict[str, str] = {}
    headers: dict[str, str] = {}
    for name, value in fields:
        if name.startswith(":"):
            if name not in _PSEUDO or name in pseudo or headers:
                raise MalformedHeaders(f"{name} is unknown, repeated, or after other headers")
            pseudo[name] = value
        else:
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    if not pseudo.get(":path") or not pseudo.get(":method") or not pseudo.get(":scheme"):
        raise MalformedHeaders(":method, :scheme and :path must be there")
    length = headers.get("content-length")
    if length is not None and not (length.isascii() and length.isdigit()):
        raise MalformedHeaders("content-length is no number")
    return CallHeaders(
        method=pseudo[":method"],
        path=pseudo[":path"],
        headers=MappingProxyType(headers),
        content_length=int(length[:20]) if length is not None else None,
    )


def encode_headers(fields: Iterable[tuple[str, str]]) -> bytes:
    """A block that needs nothing of the peer's table and leaves nothing there, so that it may be sent at any time and
    to anyone: fields are literals or in the static table."""
    return hpack.Encoder().encode(
        [field if field == _OK else hpack.NeverIndexedHeaderTuple(*field) for field in fields], huffman=False
    )
