"""Decodes the messages that Envoy sends with every request without protobuf's objects.

Protobuf makes an object for each header. That is the largest cost of a request in the gRPC server.
Only Envoy's encoding is read here, with fields in the order of their numbers. For any other encoding the functions
return None, and the caller decodes the message with protobuf. Protobuf also decodes what follows the headers."""

from collections.abc import Mapping

import msgspec

from picker.extproc.messages import Body, Phase

REQUEST_HEADERS, RESPONSE_HEADERS, REQUEST_BODY = b"\x12", b"\x1a", b"\x22"
"""First byte of a `ProcessingRequest`: the tags of the fields 2, 3 and 4, each followed by a length."""

_FIRST, _RAW_VALUE = 0x0A, 0x1A


class Headers(msgspec.Struct, frozen=True, gc=False):
    """The headers of a message."""

    headers: dict[str, str]
    end_of_stream: bool
    rest: bytes
    """Not decoded: the metadata and the proxy's configuration."""


def read_headers(data: bytes, names: Mapping[bytes, str]) -> Headers | None:
    """Reads the `HttpHeaders` whose tag `data` begins with. Keeps the headers in `names`, under the names given
    there. None for another encoding."""
    try:
        at, end = _content_span(data, 1, len(data))
        found: dict[str, str] = {}
        if at < end and data[at] == _FIRST:
            at, map_end = _content_span(data, at + 1, end)
            while at < map_end:
                # The common case, lengths of one byte, is inlined: most of the time of decoding is spent in this loop.
                size, key_size = data[at + 1], data[at + 3]
                if size >= 0x80 or key_size >= 0x80:
                    at = _header(data, at, map_end, names, found)
                    continue
                header_end, key_end = at + size + 2, at + key_size + 4
                if data[at] != _FIRST or data[at + 2] != _FIRST or key_end > header_end:
                    return None
                name = names.get(data[at + 4 : key_end])
                if name is not None:
                    found[name] = _value(data, key_end, header_end)
                at = header_end
            if at != map_end:
                return None
        ended = data[at : at + 2] == b"\x18\x01"
        if at + 2 * ended != end:
            return None
        return Headers(found, ended, data[end:])
    except (IndexError, _OtherEncoding):
        return None


def read_body(data: bytes) -> Body | None:
    """Reads the `HttpBody` of a request whose tag `data` begins with. None for another encoding."""
    try:
        at, end = _content_span(data, 1, len(data))
        body = b""
        if at < end and data[at] == _FIRST:
            at, body_end = _content_span(data, at + 1, end)
            body, at = data[at:body_end], body_end
        ended = data[at : at + 2] == b"\x10\x01"
        if at + 2 * ended != end:
            return None
        return Body(Phase.REQUEST, body, ended)
    except (IndexError, _OtherEncoding):
        return None


class _OtherEncoding(Exception):
    """The encoding is not the one that Envoy writes."""


def _header(data: bytes, at: int, map_end: int, names: Mapping[bytes, str], found: dict[str, str]) -> int:
    """Reads the `HeaderValue` at `at`: a key (field 1) and, unless it is empty, a raw value (field 3). Returns its
    end."""
    if data[at] != _FIRST:
        raise _OtherEncoding
    at, end = _content_span(data, at + 1, map_end)
    if data[at] != _FIRST:
        raise _OtherEncoding
    at, key_end = _content_span(data, at + 1, end)
    name = names.get(data[at:key_end])
    if name is not None:
        found[name] = _value(data, key_end, end)
    return end


def _value(data: bytes, at: int, end: int) -> str:
    """Reads the raw value between `at` and `end`; an absent value is empty."""
    if at == end:
        return ""
    if data[at] != _RAW_VALUE:
        raise _OtherEncoding
    at, value_end = _content_span(data, at + 1, end)
    if value_end != end:
        raise _OtherEncoding
    return data[at:end].decode("latin-1")


def _content_span(data: bytes, at: int, within: int) -> tuple[int, int]:
    """Reads the length at `at`. Returns where the content of the field begins and ends. Raises _OtherEncoding if
    it ends after `within`."""
    size = data[at]
    at += 1
    if size >= 0x80:
        size, shift, byte = size & 0x7F, 7, 0x80
        while byte >= 0x80:
            byte = data[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if shift > 35:
                raise _OtherEncoding
    end = at + size
    if end > within:
        raise _OtherEncoding
    return at, end
