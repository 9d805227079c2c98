"""Give answers the model name that the client used, when the server answered under its own.

Bytes pass as they come. Only a string that may be the name is held back, from its opening quote on: without it the
quotes that are left do not match, and the client's JSON parser fails."""

import re
from enum import Enum

import msgspec

from picker.extproc.model_name_scanner import MAX_HELD_BYTES, ModelScanner
from picker.requestcontrol.model_field import replace_model

__all__ = ["MAX_HELD_BYTES", "ResponseKind", "ResponseModelRewriter"]

_PIECE = re.compile(rb"[^\r\n]*+(\r\n|\r|\n|\Z)")
"""Of a chunk: a line with its end, or what there is of one. A CR LF cut in its middle is a line end and an empty line,
which means the same."""


class ResponseKind(Enum):
    """How an answer is cut into JSON texts."""

    JSON = "application/json"
    EVENTS = "text/event-stream"

    @classmethod
    def of(cls, content_type: str) -> "ResponseKind | None":
        """None for a content type that has no model name to restore."""
        media_type = content_type.partition(";")[0].strip().lower()
        return next((kind for kind in cls if kind.value == media_type), None)


_DATA = b"data:"


class ResponseModelRewriter:
    """Bytes of an answer in, the same bytes with the client's name out. Time is linear in the answer, however it is
    cut."""

    def __init__(self, kind: ResponseKind, served: str, asked: str) -> None:
        self._served = served
        self._asked = asked
        self._scanner = ModelScanner(served, msgspec.json.encode(asked))
        self._by_line = kind is ResponseKind.EVENTS
        self.unanswered: list[bytes] = []
        """For each piece of the answer that the proxy still has, what is to go on in its place."""
        self._matched: int | None = 0
        """How much of `data:` the current line has begun with; None for a line of another field."""

    @property
    def holding(self) -> bool:
        """Whether a part of the answer is held back: half of what may be the name."""
        return self._scanner.holding

    def feed(self, chunk: bytes, end: bool) -> bytes:
        """What may go on to the client now; after `end` nothing is held."""
        if self._by_line:
            out = b"".join([self._line(found[0], bool(found[1])) for found in _PIECE.finditer(chunk) if found[0]])
        else:
            out = self._scanner.feed(chunk)
        return out + self._scanner.finish() if end else out

    def _line(self, piece: bytes, ended: bool) -> bytes:
        """`piece` of a line of an event stream; `ended`: its end is there."""
        if ended and self._matched == 0 and piece.startswith(_DATA):
            # Nearly all lines come whole.
            return _DATA + replace_model(piece[len(_DATA) :], self._served, self._asked)
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
