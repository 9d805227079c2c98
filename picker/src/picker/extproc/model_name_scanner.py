"""Replaces the model's name in a JSON text that arrives in pieces. Only a string that may be the name is held back."""

import re
from enum import Enum, auto

from picker.requestcontrol.model_field import WRAPPERS, string_of

MAX_HELD_BYTES = 1 << 20
"""Of a string that may be the model's name. A longer string is passed on unchanged."""

_BYTES_PER_CHARACTER = 12
"""In JSON, at most: a character beyond the 16-bit ones is two escapes of six bytes."""

_LONGEST_KEY_BYTES = 64
"""Of a key that is compared: `response`, each character escaped, is 50 bytes."""

_IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SHALLOW = re.compile(rb'["{}\[\]:,]')
_DEEP = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\]]', re.DOTALL)
"""A whole string, the quote of a string that ends in a later piece, or a bracket."""

_QUOTE, _COLON, _COMMA, _OBJECT, _ARRAY = b'":,{['


class _Role(Enum):
    """The role of the string that is being read."""

    OTHER = auto()
    KEY = auto()
    NAME = auto()
    """A value of `model`, which is held back until its end."""


class ModelScanner:
    """The streaming counterpart of `model_field.replace_model`: it replaces the same strings wherever the text is
    split. Time is linear in the text. Text that is not JSON raises nothing."""

    def __init__(self, name: str, replacement: bytes) -> None:
        """Replaces the string `name` by `replacement`, which is a JSON string."""
        self._name = name
        self._replacement = replacement
        self._longest_bytes = min(MAX_HELD_BYTES, 2 + _BYTES_PER_CHARACTER * len(name))
        self._token = bytearray()
        self._begin()

    def feed(self, chunk: bytes) -> bytes:
        """Adds a piece of the text. Returns what can be sent on now."""
        out: list[bytes] = []
        at = 0
        while at < len(chunk):
            at = self._outside(chunk, at, out) if self._role is None else self._inside(chunk, at, out)
        return b"".join(out)

    @property
    def holding(self) -> bool:
        """Whether a part of the text is held back."""
        return self._role is _Role.NAME

    def finish(self) -> bytes:
        """Ends the text. Returns what was held back. The next piece begins another text."""
        held = bytes(self._token) if self._role is _Role.NAME else b""
        self._begin()
        return held

    def _begin(self) -> None:
        self._depth = 0
        self._in_wrapper = False
        """Whether the current object at depth 2 may name the model."""
        self._key: str | None = None
        self._is_value = False
        """Whether a colon was read after the key."""
        self._role: _Role | None = None
        self._token.clear()
        self._escaped = False
        """Whether the last byte that was read is a backslash that escapes the next one."""

    def _may_name_model(self) -> bool:
        return self._depth == 1 or (self._depth == 2 and self._in_wrapper)

    def _outside(self, chunk: bytes, start: int, out: list[bytes]) -> int:
        """Reads `chunk` from `start`, outside of strings. Returns the position where a string to read begins, where the
        nesting changes what has to be read, or the chunk's end."""
        shallow = self._may_name_model()
        for found in (_SHALLOW if shallow else _DEEP).finditer(chunk, start):
            begin, end = found.span()
            byte = chunk[begin]
            if byte != _QUOTE:
                self._structure(byte)
                if self._may_name_model() is shallow:
                    continue
            elif end - begin > 1:
                continue
            else:
                self._role = self._role_of_string() if shallow else _Role.OTHER
                self._token[:] = b'"'
            out.append(chunk[start : begin if self._role is _Role.NAME else end])
            return end
        out.append(chunk[start:])
        return len(chunk)

    def _role_of_string(self) -> _Role:
        if not self._is_value:
            return _Role.KEY
        return _Role.NAME if self._key == "model" else _Role.OTHER

    def _structure(self, byte: int) -> None:
        """Updates the position in the JSON structure. `byte`: a bracket, a colon or a comma."""
        if byte == _COLON:
            self._is_value = True
            return
        if byte in (_OBJECT, _ARRAY):
            self._depth += 1
            if self._depth == 2:
                self._in_wrapper = byte == _OBJECT and self._is_value and self._key in WRAPPERS
        elif byte != _COMMA:
            self._depth = max(0, self._depth - 1)
        self._key = None
        self._is_value = False

    def _inside(self, chunk: bytes, start: int, out: list[bytes]) -> int:
        """Reads `chunk` from `start` to the end of the current string. Returns the position after it."""
        at = start + self._escaped
        found = _IN_STRING.match(chunk, at)
        at = found.end() if found is not None else at
        closed = at < len(chunk) and chunk[at] == _QUOTE
        # Not closed: the byte at `at`, if there is one, is a backslash at the chunk's end.
        self._escaped = at < len(chunk) and not closed
        end = min(at + 1, len(chunk))
        piece = chunk[start:end]
        if self._role is _Role.NAME:
            self._token += piece
            if closed:
                text = bytes(self._token)
                out.append(self._replacement if string_of(text) == self._name else text)
            elif len(self._token) > self._longest_bytes:
                out.append(bytes(self._token))
                self._role = _Role.OTHER
        else:
            out.append(piece)
            if self._role is _Role.KEY and len(self._token) <= _LONGEST_KEY_BYTES:
                self._token += piece[: _LONGEST_KEY_BYTES + 1]
            if closed and self._role is _Role.KEY:
                self._key = string_of(bytes(self._token)) if len(self._token) <= _LONGEST_KEY_BYTES else ""
        if closed:
            self._role = None
        return end
