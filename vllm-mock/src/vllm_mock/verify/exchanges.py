"""Recorded HTTP exchanges: a request, and the response of a real vLLM."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import msgspec

Json = dict[str, Any]


def fields_of(value: object) -> Json:
    """`value` if it is a JSON object, otherwise an empty one."""
    return cast(Json, value) if isinstance(value, dict) else {}


class Line(msgspec.Struct):
    """One line of a stream."""

    line: str
    offset_ms: float = 0.0


class RecordedRequest(msgspec.Struct):
    method: str
    path: str
    headers: dict[str, str] = {}
    body: Any = msgspec.UNSET
    body_raw: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def content(self) -> bytes | None:
        if isinstance(self.body_raw, str):
            return self.body_raw.encode()
        return None if self.body is msgspec.UNSET else msgspec.json.encode(self.body)

    @property
    def fields(self) -> Json:
        """The body if it is a JSON object, otherwise an empty one."""
        return fields_of(self.parsed)

    @property
    def parsed(self) -> Any:
        if isinstance(self.body_raw, str):
            try:
                return msgspec.json.decode(self.body_raw)
            except msgspec.DecodeError:
                return None
        return None if self.body is msgspec.UNSET else self.body

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers.items() if key.lower() == name), None)


class RecordedResponse(msgspec.Struct):
    status: int
    headers: dict[str, str] = {}
    body: Any = msgspec.UNSET
    body_text: str | None = None
    body_lines: list[Line] | None = None
    body_omitted: bool = False

    @property
    def fields(self) -> Json:
        return fields_of(self.body)


class Exchange(msgspec.Struct, dict=True):
    request: RecordedRequest
    response: RecordedResponse
    note: str = ""

    @cached_property
    def chunks(self) -> list[Json]:
        """The decoded JSON of a stream's events."""
        events = (line.line.removeprefix("data: ") for line in self.response.body_lines or ())
        return [msgspec.json.decode(event) for event in events if event.startswith("{")]

    def number_in_note(self, name: str, default: int) -> int:
        """The number after `name` in the recorder's note, such as `max_num_seqs 2`."""
        found = re.search(rf"{name} (\d+)", self.note)
        return int(found[1]) if found else default


def read_exchange(file: Path) -> Exchange:
    return msgspec.json.decode(file.read_bytes(), type=Exchange)
