"""The messages that Envoy sends with every request, read where they stand in their bytes.

Protobuf's own objects cost a request more than all else at the edge: one for each header, to be thrown away at once.
Only the shape that Envoy writes is read here, fields in the order of their numbers; None stands for any other, which is
no error: protobuf can tell. What follows the headers in a message is left to it, too."""

from collections.abc import Mapping

import msgspec

from picker.extproc.messages import Body, Phase

REQUEST_HEADERS, RESPONSE_HEADERS, REQUEST_BODY = b"\x12", b"\x1a", b"\x22"
"""First bytes of a `ProcessingRequest`: the fields 2, 3 and 4, with their length before them."""

_FIRST, _RAW_VALUE = 0x0A, 0x1A


class Headers(msgspec.Struct, frozen=True, gc=False):
    """A message's own part, and the bytes of the rest: metadata and the proxy's configuration."""

    headers: dict[str, str]
    end_of_stream: bool
    rest: bytes


def read_headers(data: bytes, names: Mapping[bytes, str]) -> Headers | None:
    """`HttpHeaders`, of them those in `names`, under the names given there. `data` begins with their tag."""
    try:
        at, end = _inside(data, 1, len(data))
        found: dict[str, str] = {}
        if at < end and data[at] == _FIRST:
            at, map_end = _inside(data, at + 1, end)
            while at < map_end:
                # Written out for the lengths of one byte that nearly all have: this loop is most of what reading costs.
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
    except (IndexError, _OtherShape):
        return None


def read_body(data: bytes) -> Body | None:
    """`HttpBody` of a request. `data` begins with its tag."""
    try:
        at, end = _inside(data, 1, len(data))
        body = b""
        if at < end and data[at] == _FIRST:
            at, body_end = _inside(data, at + 1, end)
            body, at = data[at:body_end], body_end
        ended = data[at : at + 2] == b"\x10\x01"
        if at + 2 * ended != end:
            return None
        return Body(Phase.REQUEST, body, ended)
    except (IndexError, _OtherShape):
        return None


class _OtherShape(Exception):
    """Not as Envoy writes it."""


def _header(data: bytes, at: int, map_end: int, names: Mapping[bytes, str], found: dict[str, str]) -> int:
    """Read the `HeaderValue` at `at`: a key (1) and, unless it is empty, a raw value (3). Where it ends."""
    if data[at] != _FIRST:
        raise _OtherShape
    at, end = _inside(data, at + 1, map_end)
    if data[at] != _FIRST:
        raise _OtherShape
    at, key_end = _inside(data, at + 1, end)
    name = names.get(data[at:key_end])
    if name is not None:
        found[name] = _value(data, key_end, end)
    return end


def _value(data: bytes, at: int, end: int) -> str:
    """The raw value that is all from `at` to `end`; no value is an empty one."""
    if at == end:
        return ""
    if data[at] != _RAW_VALUE:
        raise _OtherShape
    at, value_end = _inside(data, at + 1, end)
    if value_end != end:
        raise _OtherShape
    return data[at:end].decode("latin-1")


def _inside(data: bytes, at: int, within: int) -> tuple[int, int]:
    """Of the field whose length stands at `at`: where its content begins and ends, which is not after `within`."""
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
                raise _OtherShape
    end = at + size
    if end > within:
        raise _OtherShape
    return at, end
