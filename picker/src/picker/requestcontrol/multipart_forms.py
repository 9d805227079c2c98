"""Reads multipart forms (RFC 7578): their fields, and the positions of the values.

Form libraries do not report positions. They are needed to replace a value without a change of any other byte. A form
that servers may read in more than one way is rejected, so that picker and server read the same model. Time is linear in
the form."""

import re

import msgspec

MAX_PARTS = 2000
"""Of a form. Starlette, which vLLM uses, accepts 1,000 fields and 1,000 files."""

MAX_HEAD_BYTES = 16 << 10
"""Of one part's headers. Judgement: most of them is the file's name."""

MAX_FIELD_BYTES = 4 << 10
"""Of a field that is read. A model's name of 256 characters has up to 1,024 bytes."""

_BOUNDARY = re.compile(r'boundary=(?:"([^"\\]{1,70})"|([^\s;"]{1,70}))\s*(?:;|\Z)', re.IGNORECASE)
_CHARSETS = re.compile(r"charset=(?!\"?(?:utf-?8|us-ascii)\b)", re.IGNORECASE)
_DISPOSITION = re.compile(
    rb'form-data((?:\s*+;\s*+[\w.!#$&+^*-]++=(?:"(?:[^"\\]|\\.)*+"|[^\s;"]++))*+)\s*+', re.IGNORECASE
)
_PARAMETER = re.compile(rb';\s*+([\w.!#$&+^*-]++)=(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]++))')


class FormUnreadable(ValueError):
    """The bytes are not a form, or one that servers may read in more than one way."""


class Form(msgspec.Struct, frozen=True, gc=False):
    """A parsed form."""

    fields: dict[str, tuple[int, int]]
    """The start and end of each field's value, by name. If a name is repeated the last one counts, as in servers."""
    files: int


def is_form(content_type: str) -> bool:
    """Whether a body of this type is a multipart form."""
    return content_type[:20].lower().startswith("multipart/form-data")


def read_form(body: bytes, content_type: str) -> Form:
    """Parses `body`. Raises FormUnreadable."""
    delimiter = b"\r\n--" + _boundary(content_type)
    # No CRLF precedes the first delimiter.
    if not body.startswith(delimiter[2:]):
        raise FormUnreadable("the body does not begin with the boundary")
    at = len(delimiter) - 2
    fields: dict[str, tuple[int, int]] = {}
    files = parts = 0
    while body[at : at + 2] == b"\r\n":
        parts += 1
        if parts > MAX_PARTS:
            raise FormUnreadable(f"more than {MAX_PARTS} parts")
        head_end = body.find(b"\r\n\r\n", at, at + MAX_HEAD_BYTES)
        if head_end < 0:
            raise FormUnreadable(f"the headers of a part exceed {MAX_HEAD_BYTES} bytes")
        name, is_file = _disposition(body[at + 2 : head_end])
        start = head_end + 4
        end = body.find(delimiter, start)
        if end < 0:
            raise FormUnreadable("a part without a closing boundary")
        if is_file:
            files += 1
        else:
            fields[name] = start, end
        at = end + len(delimiter)
    if body[at : at + 2] != b"--":
        raise FormUnreadable("invalid bytes after a boundary")
    return Form(fields, files)


def with_value(body: bytes, span: tuple[int, int], value: str) -> bytes:
    """Returns `body` with `value` in the place of `span`."""
    start, end = span
    return b"".join((body[:start], value.encode(), body[end:]))


def _boundary(content_type: str) -> bytes:
    if content_type.lower().count("boundary") != 1 or _CHARSETS.search(content_type):
        raise FormUnreadable("the content type needs one boundary, and no charset other than UTF-8")
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise FormUnreadable("the content type needs a boundary of 1 to 70 characters")
    return (found[1] or found[2]).encode("latin-1", "replace")


def _disposition(head: bytes) -> tuple[str, bool]:
    """Parses the headers of a part: its name, and whether it is a file."""
    found: list[bytes] = []
    for line in head.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or name.strip() != name or not name:
            raise FormUnreadable("a part has an invalid header line")
        if name.lower() == b"content-disposition":
            found.append(value.strip())
    if len(found) != 1 or (disposition := _DISPOSITION.fullmatch(found[0])) is None:
        raise FormUnreadable("a part needs one Content-Disposition header with form-data")
    values: dict[bytes, bytes] = {}
    for parameter in _PARAMETER.finditer(disposition[1]):
        key = parameter[1].lower()
        if key in values or key.startswith(b"name*"):
            raise FormUnreadable("a part has a repeated parameter or an encoded name")
        values[key] = parameter[2] if parameter[2] is not None else parameter[3]
    name = values.get(b"name")
    if name is None or b"\\" in name:
        raise FormUnreadable("a part needs a name without escapes")
    return name.decode(errors="replace"), b"filename" in values or b"filename*" in values
