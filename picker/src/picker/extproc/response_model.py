"""Replaces the server's name of the model in a response by the name that the client used.

Bytes are passed on as they arrive. Only a string that may be the name is held back, from its opening quote on. If the
picker is killed meanwhile, the quotes in the response do not match, and the client's JSON parser fails."""

import re
from enum import Enum

import msgspec

from picker.extproc.model_name_scanner import MAX_HELD_BYTES, ModelScanner
from picker.requestcontrol.model_field import replace_model

__all__ = ["MAX_HELD_BYTES", "ResponseKind", "ResponseModelRewriter"]

_PIECE = re.compile(rb"[^\r\n]*+(\r\n|\r|\n|\Z)")
"""Of a chunk: a line with its end, or an incomplete line. A CR LF that is split between two chunks reads as a line end
and an empty line, which is equivalent."""


class ResponseKind(Enum):
    """How a response body is divided into JSON texts."""

    JSON = "application/json"
    EVENTS = "text/event-stream"

    @classmethod
    def of(cls, content_type: str) -> "ResponseKind | None":
        """The kind by content type; None for one in which no model name is replaced."""
        media_type = content_type.partition(";")[0].strip().lower()
        return next((kind for kind in cls if kind.value == media_type), None)


_DATA = b"data:"


class ResponseModelRewriter:
    """Replaces the name `served` by `requested` in a response body. Time is linear in the body, however it is split."""

    def __init__(self, kind: ResponseKind, served: str, requested: str) -> None:
        self._served = served
        self._requested = requested
        self._scanner = ModelScanner(served, msgspec.json.encode(requested))
        self._by_line = kind is ResponseKind.EVENTS
        self.unanswered: list[bytes] = []
        """The replacement for each piece of the body that was received and has no reply yet."""
        self._matched: int | None = 0
        """How many characters of `data:` the current line has matched; None for a line of another field."""

    @property
    def holding(self) -> bool:
        """Whether a part of the body is held back: an incomplete string that may be the name."""
        return self._scanner.holding

    def feed(self, chunk: bytes, end: bool) -> bytes:
        """Adds a piece of the body. Returns what can be sent to the client now; with `end`, all of it."""
        if self._by_line:
            out = b"".join([self._line(found[0], bool(found[1])) for found in _PIECE.finditer(chunk) if found[0]])
        else:
            out = self._scanner.feed(chunk)
        return out + self._scanner.finish() if end else out

    def _line(self, piece: bytes, ended: bool) -> bytes:
        """Handles a piece of a line of an event stream. `ended`: whether the line ends with it."""
        if ended and self._matched == 0 and piece.startswith(_DATA):
            # The common case: a whole line.
            return _DATA + replace_model(piece[len(_DATA) :], self._served, self._requested)
        begins = b""
        if self._matched is not None and self._matched < len(_DATA):
            begins, piece = piece[: len(_DATA) - self._matched], piece[len(_DATA) - self._matched :]
            matches = _DATA.startswith(begins, self._matched)
            self._matched = self._matched + len(begins) if matches else None
        out = begins + (piece if self._matched is None else self._scanner.feed(piece))
        if ended:
            self._matched = 0
            out += self._scanner.finish()
        return out
