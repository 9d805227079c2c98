"""Where the values of `model` sit in a JSON text, so that a name can be exchanged and every other byte stays as it is.

Re-serialising would change numbers beyond 2**53, key order and escapes, which belong to the client.
"""

import json
import re

import msgspec

_TOKEN = re.compile(
    # A string, a colon behind it if it is a key, or a bracket. A string that never ends is one to the text's end, and
    # no part of it is looked at twice: time stays linear in texts that were cut off.
    rb'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"(\s*+:)?|\Z)|[{}\[\]]',
    re.DOTALL,
)
_MODEL_VALUE = re.compile(rb'"model"\s*+:\s*+("[^"\\]*+(?:\\.[^"\\]*+)*+")')
_OPEN, _CLOSE = (b"{", b"["), (b"}", b"]")

WRAPPERS = frozenset({"response", "message"})
"""Keys of the objects in which the Responses API's and the Messages API's stream events carry the model's name."""


def string_of(token: bytes) -> str | None:
    """The string that a JSON string token stands for; None for one that is not valid."""
    try:
        value = json.loads(token)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def model_spans(text: bytes, name: str, wrappers: frozenset[str] = WRAPPERS) -> list[tuple[int, int]]:
    """The spans `text[start:end]`, quotes included, of every string `name` under a key `model` of the outermost object
    or of one directly in it under a key of `wrappers`. Time is linear in the text. A text that is not JSON gives
    whatever was found before it broke; it never raises."""
    spans: list[tuple[int, int]] = []
    path: list[str | None] = []
    key: str | None = None
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in _OPEN:
            path.append(key if token == b"{" else None)
            key = None
        elif token in _CLOSE:
            if path:
                path.pop()
            key = None
        elif match[1] is not None:
            key = string_of(token[: -len(match[1])]) if len(path) <= 2 else ""
        else:
            if key == "model" and _carries_model(path, wrappers) and string_of(token) == name:
                spans.append((match.start(), match.end()))
            key = None
    return spans


def _carries_model(path: list[str | None], wrappers: frozenset[str]) -> bool:
    """Whether the object at `path` (keys from outside in, None for the outermost and in arrays) may name the model."""
    return len(path) == 1 or (len(path) == 2 and path[1] in wrappers)


def replace_model(text: bytes, old: str, new: str) -> bytes:
    """An answer with the model's name `old` exchanged for `new`; the same object when there is nothing to exchange."""
    return _with(text, model_spans(text, old), new)


def rename_request(body: bytes, old: str, new: str) -> bytes:
    """A request's body, which is a JSON object whose `model` is `old`, with `new` there.

    A prompt may be long, and finding the name's place takes longer than parsing the text does in C. So the last thing
    that looks like the place is taken, and the result is parsed; only if the name is not there then, all of the text is
    looked through.
    """
    at = body.rfind(b'"model"')
    if at >= 0 and (found := _MODEL_VALUE.match(body, at)) and string_of(found[1]) == old:
        renamed = _with(body, [found.span(1)], new)
        if _named_model(renamed) == new:
            return renamed
    return _with(body, model_spans(body, old, frozenset()), new)


class _Named(msgspec.Struct):
    model: str | None = None


_named = msgspec.json.Decoder(_Named)


def _named_model(body: bytes) -> str | None:
    try:
        return _named.decode(body).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _with(text: bytes, spans: list[tuple[int, int]], name: str) -> bytes:
    """`text` with `name` in the place of what stands in `spans`."""
    if not spans:
        return text
    quoted = msgspec.json.encode(name)
    pieces: list[bytes] = []
    position = 0
    for start, end in spans:
        pieces += (text[position:start], quoted)
        position = end
    pieces.append(text[position:])
    return b"".join(pieces)
