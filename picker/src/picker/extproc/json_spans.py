"""Where the values of `model` sit in a JSON text, so that a name can be exchanged and every other byte stays as it is.

Re-serialising would change numbers beyond 2**53, key order and escapes, which belong to the client.
"""

import json
import re

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?|[{}\[\]]', re.DOTALL)
_OPEN, _CLOSE = (b"{", b"["), (b"}", b"]")

WRAPPERS = frozenset({"response", "message"})
"""Keys of the objects in which the Responses API's and the Messages API's stream events carry the model's name."""


def _text(token: bytes) -> str | None:
    """The string that a JSON string token stands for; None for one that is not valid."""
    try:
        value = json.loads(token)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def model_spans(text: bytes, name: str) -> list[tuple[int, int]]:
    """The spans `text[start:end]`, quotes included, of every string `name` under a key `model` of the outermost object
    or of one directly in it under a key of WRAPPERS. Time is linear in the number of strings and brackets. A text that
    is not JSON gives whatever was found before it broke; it never raises."""
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
            key = _text(token[: -len(match[1])]) if len(path) <= 2 else ""
        else:
            if key == "model" and _carries_model(path) and _text(token) == name:
                spans.append((match.start(), match.end()))
            key = None
    return spans


def _carries_model(path: list[str | None]) -> bool:
    """Whether the object at `path` (keys from outside in, None for the outermost and in arrays) may name the model."""
    return len(path) == 1 or (len(path) == 2 and path[1] in WRAPPERS)


def replace_model(text: bytes, old: str, new: str) -> bytes:
    """`text` with the model's name `old` exchanged for `new`; the same object when there is nothing to exchange."""
    spans = model_spans(text, old)
    if not spans:
        return text
    quoted = json.dumps(new, ensure_ascii=False).encode()
    pieces: list[bytes] = []
    position = 0
    for start, end in spans:
        pieces += (text[position:start], quoted)
        position = end
    pieces.append(text[position:])
    return b"".join(pieces)
