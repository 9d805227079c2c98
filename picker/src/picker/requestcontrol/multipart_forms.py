"""Reads multipart forms (RFC 7578): which fields they have, and where in the bytes a value is.

Parsers of forms do not report places, and without one a value cannot be exchanged while every other byte stays as it
is. What servers may read in more than one way is rejected here, so that picker and server see the same model. Time is
linear in the form."""

import re

import msgspec

MAX_PARTS = 2000
"""Starlette, in which vLLM is written, takes 1,000 fields and 1,000 files."""

MAX_HEAD_BYTES = 16 << 10
"""Of one part's headers; a file's name is most of them."""

MAX_FIELD_BYTES = 4 << 10
"""Of a field that is read: a name of 256 characters has up to 1,024."""

_BOUNDARY = re.compile(r'boundary=(?:"([^"\\]{1,70})"|([^\s;"]{1,70}))\s*(?:;|\Z)', re.IGNORECASE)
_CHARSETS = re.compile(r"charset=(?!\"?(?:utf-?8|us-ascii)\b)", re.IGNORECASE)
_DISPOSITION = re.compile(
    rb'form-data((?:\s*+;\s*+[\w.!#$&+^*-]++=(?:"(?:[^"\\]|\\.)*+"|[^\s;"]++))*+)\s*+', re.IGNORECASE
)
_PARAMETER = re.compile(rb';\s*+([\w.!#$&+^*-]++)=(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]++))')


class FormUnreadable(ValueError):
    """Bytes that are no form, or one that may be read in more than one way."""


class Form(msgspec.Struct, frozen=True, gc=False):
    """What was read of a form."""

    fields: dict[str, tuple[int, int]]
    """Where the values of fields start and end; of those of one name the last, as servers take it."""
    files: int


def is_form(content_type: str) -> bool:
    """Whether a body of this type is a multipart form."""
    return content_type[:20].lower().startswith("multipart/form-data")


def read_form(body: bytes, content_type: str) -> Form:
    """The fields and files of `body`. Raises FormUnreadable."""
    delimiter = b"\r\n--" + _boundary(content_type)
    # The first delimiter has no line before it.
    if not body.startswith(delimiter[2:]):
        raise FormUnreadable("it does not begin with the boundary")
    at = len(delimiter) - 2
    fields: dict[str, tuple[int, int]] = {}
    files = parts = 0
    while body[at : at + 2] == b"\r\n":
        parts += 1
        if parts > MAX_PARTS:
            raise FormUnreadable(f"it has more than {MAX_PARTS} parts")
        head_end = body.find(b"\r\n\r\n", at, at + MAX_HEAD_BYTES)
        if head_end < 0:
            raise FormUnreadable(f"the headers of a part do not end within {MAX_HEAD_BYTES} bytes")
        name, is_file = _disposition(body[at + 2 : head_end])
        start = head_end + 4
        end = body.find(delimiter, start)
        if end < 0:
            raise FormUnreadable("a part does not end")
        if is_file:
            files += 1
        else:
            fields[name] = start, end
        at = end + len(delimiter)
    if body[at : at + 2] != b"--":
        raise FormUnreadable("a boundary is followed by neither a part nor the end")
    return Form(fields, files)


def with_value(body: bytes, span: tuple[int, int], value: str) -> bytes:
    """`body` with another value at `span`."""
    start, end = span
    return b"".join((body[:start], value.encode(), body[end:]))


def _boundary(content_type: str) -> bytes:
    if content_type.lower().count("boundary") != 1 or _CHARSETS.search(content_type):
        raise FormUnreadable("its content type names no boundary, several, or a charset other than UTF-8")
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise FormUnreadable("its content type names no boundary of 1 to 70 characters")
    return (found[1] or found[2]).encode("latin-1", "replace")


def _disposition(head: bytes) -> tuple[str, bool]:
    """Name of a part, and whether it is a file."""
    found: list[bytes] = []
    for line in head.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or name.strip() != name or not name:
            raise FormUnreadable("a part has a header that is none")
        if name.lower() == b"content-disposition":
            found.append(value.strip())
    if len(found) != 1 or (disposition := _DISPOSITION.fullmatch(found[0])) is None:
        raise FormUnreadable("a part has no Content-Disposition form-data, or several")
    values: dict[bytes, bytes] = {}
    for parameter in _PARAMETER.finditer(disposition[1]):
        key = parameter[1].lower()
        if key in values or key.startswith(b"name*"):
            raise FormUnreadable("a part has several names")
        values[key] = parameter[2] if parameter[2] is not None else parameter[3]
    name = values.get(b"name")
    if name is None or b"\\" in name:
        raise FormUnreadable("a part has no name, or one with escapes")
    return name.decode(errors="replace"), b"filename" in values or b"filename*" in values
