"""Finds the values of `model` in a JSON text, and replaces a name without a change of any other byte.

Encoding the parsed text again would change numbers beyond 2**53, key order and escapes.
"""

import json
import re

import msgspec

_TOKEN = re.compile(
    # A string, with the colon after it if it is a key, or a bracket. A string without an end extends to the text's end.
    # No byte of it is matched twice, so time is linear in a truncated text.
    rb'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"(\s*+:)?|\Z)|[{}\[\]]',
    re.DOTALL,
)
_MODEL_VALUE = re.compile(rb'"model"\s*+:\s*+("[^"\\]*+(?:\\.[^"\\]*+)*+")')
_OPEN, _CLOSE = (b"{", b"["), (b"}", b"]")

WRAPPERS = frozenset({"response", "message"})
"""Keys of the objects that name the model in stream events of the Responses API and the Messages API."""


def string_of(token: bytes) -> str | None:
    """Decodes a JSON string token; None for one that is not valid."""
    try:
        value = json.loads(token)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def model_spans(text: bytes, name: str, wrappers: frozenset[str] = WRAPPERS) -> list[tuple[int, int]]:
    """Returns the spans `text[start:end]`, quotes included, of every string `name` under a key `model`. The key is in
    the outermost object, or in an object directly in it under a key of `wrappers`. Time is linear in the text. Raises
    nothing: for a text that is not JSON the result has what was found before the error."""
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
    """Whether the object at `path` may name the model. `path`: keys from the outside in, None for the outermost object
    and for arrays."""
    return len(path) == 1 or (len(path) == 2 and path[1] in wrappers)


def replace_model(text: bytes, old: str, new: str) -> bytes:
    """Replaces the model's name `old` by `new` in a response. Returns the same object if the name is not there."""
    return _with(text, model_spans(text, old), new)


def rename_request(body: bytes, old: str, new: str) -> bytes:
    """Replaces the model's name `old` by `new` in a request's body, a JSON object.

    A search of a long prompt takes longer than parsing it in C. So the last match of `"model"` is replaced, and the
    result is parsed. Only if its model is not `new`, the whole body is searched.
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
    """Replaces the `spans` of `text` by `name`."""
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
