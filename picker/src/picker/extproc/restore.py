"""Give answers the model name that the client used, when the server answered under its own."""

from enum import Enum

import msgspec

from picker.extproc.json_spans import replace_model

MAX_HELD_BYTES = 16 << 20
"""Of an answer held back to find the name in it: an answer this long passes unchanged rather than filling memory."""


class AnswerKind(Enum):
    """How an answer is cut into JSON texts."""

    JSON = "application/json"
    EVENTS = "text/event-stream"

    @classmethod
    def of(cls, content_type: str) -> "AnswerKind | None":
        """None for a content type that has no model name to restore."""
        media_type = content_type.partition(";")[0].strip().lower()
        return next((kind for kind in cls if kind.value == media_type), None)


_any_json = msgspec.json.Decoder(msgspec.Raw)


def _is_json(text: bytearray) -> bool:
    try:
        _any_json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


class NameRestorer:
    """Bytes of an answer in, the same bytes with the client's name out. What may hold half of a name is held back: a
    line of an event stream, the whole of a JSON answer."""

    def __init__(self, kind: AnswerKind, served: str, asked: str) -> None:
        self._kind = kind
        self._served = served
        self._asked = asked
        self._held = bytearray()
        self._gave_up = False

    def feed(self, chunk: bytes, end: bool) -> bytes:
        """What may go on to the client now; after `end` nothing is held."""
        if self._gave_up:
            return chunk
        held = self._held
        held += chunk
        if end:
            return self._restored(self._taken(len(held)))
        if self._kind is AnswerKind.EVENTS:
            line_end = chunk.rfind(b"\n") + 1
            if line_end:
                return self._restored(self._taken(len(held) - len(chunk) + line_end))
        elif chunk.rstrip().endswith(b"}") and _is_json(held):
            # Complete, so that nothing is held when trailers end the answer.
            return self._restored(self._taken(len(held)))
        if len(held) > MAX_HELD_BYTES:
            self._gave_up = True
            return self._taken(len(held))
        return b""

    def _taken(self, count: int) -> bytes:
        """The first `count` bytes held, which are held no more."""
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    def _restored(self, text: bytes) -> bytes:
        if self._kind is AnswerKind.JSON:
            return replace_model(text, self._served, self._asked)
        return b"".join(self._line(line) for line in text.splitlines(keepends=True))

    def _line(self, line: bytes) -> bytes:
        if not line.startswith(b"data:"):
            return line
        return line[:5] + replace_model(line[5:], self._served, self._asked)
