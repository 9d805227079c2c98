"""Parses responses recorded as raw lines from a socket: headers, chunk sizes and pieces of content.

Where a socket splits a response differs between runs. These functions return its content, which does not.
A line of only one to eight hexadecimal digits is taken as a chunk size.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

_CHUNK_SIZE = re.compile(r"[0-9a-fA-F]{1,8}")
_HEADER = re.compile(r"([A-Za-z0-9-]+): *(.*)")
_STATUS = re.compile(r"HTTP/\d(?:\.\d)? (\d{3})")


@dataclass(frozen=True, slots=True)
class CutResponse:
    """A parsed response."""

    status: int | None
    """None if the status line was not recorded."""
    headers: dict[str, str]
    """Values by name in lower case."""
    body: Any
    """The decoded JSON of the body."""


def events_of(lines: Sequence[str]) -> list[Any]:
    """The `data:` events of a stream: the decoded JSON of each, or its text. Text before the first event is dropped."""
    events = _joined(lines).split("data: ")[1:]
    return [_decoded(event.strip()) for event in events]


def response_of(lines: Sequence[str]) -> CutResponse:
    """Parses a response with a JSON body. Raises ValueError."""
    status: int | None = None
    headers: dict[str, str] = {}
    rest = [part for line in lines for part in line.splitlines()]
    while rest:
        found, header = _STATUS.match(rest[0]), _HEADER.fullmatch(rest[0])
        if found is not None:
            status = int(found[1])
        elif header is not None:
            headers[header[1].lower()] = header[2]
        elif rest[0]:
            break
        rest.pop(0)
    return CutResponse(status, headers, msgspec.json.decode(_joined(rest)))


def _joined(lines: Sequence[str]) -> str:
    """The content of `lines`, without chunk sizes and line breaks."""
    pieces = [piece.rstrip("\r") for line in lines for piece in line.split("\n")]
    return "".join(piece for piece in pieces if not _CHUNK_SIZE.fullmatch(piece))


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
