"""Answers recorded as the lines that came from a socket: headers, chunk sizes and pieces of content.

Where a socket cut an answer differs between runs. What the answer says does not: these functions return that.
A line of up to eight hexadecimal digits alone is taken for the size of a chunk.
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
    status: int | None
    """None where the status line was not recorded."""
    headers: dict[str, str]
    """By name in lower case."""
    body: Any
    """The JSON of the body."""


def events_of(lines: Sequence[str]) -> list[Any]:
    """The `data:` events of a stream: the JSON of each, or its text. A beginning that was cut off is left out."""
    events = _joined(lines).split("data: ")[1:]
    return [_meaning(event.strip()) for event in events]


def response_of(lines: Sequence[str]) -> CutResponse:
    """An answer with a JSON body. Raises ValueError."""
    status: int | None = None
    headers: dict[str, str] = {}
    rest = [each for line in lines for each in line.splitlines()]
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
    """Without chunk sizes and empty lines."""
    pieces = [piece.rstrip("\r") for line in lines for piece in line.split("\n")]
    return "".join(piece for piece in pieces if not _CHUNK_SIZE.fullmatch(piece))


def _meaning(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
