"""Reads a stream of server-sent events: the time of each token, and the server's token counts.

A busy server sends thousands of chunks a second. Nearly all hold one token and nothing else that matters here. Two
substrings identify them without parsing JSON. No generated text can contain either, because a quote inside a JSON
string is escaped. JSON is parsed only if the substrings do not decide."""

from array import array

import msgspec

_TOKEN = b'"choices":[{'
_USAGE = b'"usage":{'
_END = b"\n\n"


class Usage(msgspec.Struct, frozen=True):
    """Token counts of the server."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    text: str | None = None
    delta: _Delta = _Delta()


class _Error(msgspec.Struct, frozen=True):
    message: str = ""


class _Event(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: _Error | str | None = None


_decoder = msgspec.json.Decoder(_Event)


class EventReader:
    """Reads one response; `feed` takes the body as it arrives."""

    __slots__ = ("_rest", "_texts", "done", "error", "times_s", "usage")

    def __init__(self, keep_text: bool = False) -> None:
        self.times_s: array[float] = array("d")
        """Arrival time of each event with non-empty `choices`, on the clock of `feed`. As in vLLM's client, the first
        one ends the TTFT and the last one the request, whatever their text."""
        self.usage: Usage | None = None
        """The last usage received."""
        self.done = False
        """Whether `[DONE]` was received."""
        self.error: str | None = None
        """The error that the server sent, or why its events cannot be read."""
        self._rest = b""
        self._texts: list[str] | None = [] if keep_text else None

    @property
    def text(self) -> str:
        """The generated text; empty unless `keep_text`."""
        return "".join(self._texts or ())

    def feed(self, body: bytes, now_s: float) -> None:
        """Takes the next piece of the body. Pieces may be cut anywhere."""
        if (
            body.find(_END) == len(body) - 2
            and _TOKEN in body
            and _USAGE not in body
            and not self._rest
            and self._texts is None
        ):
            self.times_s.append(now_s)
            return
        *events, self._rest = (self._rest + body).replace(b"\r\n", b"\n").split(_END)
        for event in events:
            self._read(event, now_s)

    def _read(self, event: bytes, now_s: float) -> None:
        data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if data == b"[DONE]":
            self.done = True
        elif self._texts is None and _TOKEN in data and _USAGE not in data:
            self.times_s.append(now_s)
        elif data:
            self._read_json(data, now_s)

    def _read_json(self, data: bytes, now_s: float) -> None:
        try:
            event = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.error = f"unreadable event ({error}): {data[:200].decode(errors='replace')}"
            return
        if event.error is not None:
            self.error = event.error if isinstance(event.error, str) else event.error.message
        if event.usage is not None:
            self.usage = event.usage
        if event.choices:
            self.times_s.append(now_s)
            if self._texts is not None:
                choice = event.choices[0]
                self._texts.append(choice.text or choice.delta.content or choice.delta.reasoning_content or "")
