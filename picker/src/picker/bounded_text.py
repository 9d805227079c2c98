"""Bounds the text of clients, model servers and objects before it is kept, logged, exported or made a label."""

MAX_CHARACTERS = 256
"""The longest text that is kept. The API allows model names of 256 characters, so no valid name is shortened."""

MARK = "…"
"""Last character of a text that was shortened."""


def shorten(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """`text` if it has at most `max_characters` characters, else its beginning and `MARK`: `max_characters` in all."""
    return text if len(text) <= max_characters else text[: max_characters - 1] + MARK
