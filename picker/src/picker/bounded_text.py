"""Limits the length of text from clients, model servers and objects, before it is kept, logged, exported or made a
label."""

MAX_CHARACTERS = 256
"""Maximum length of kept text. The API allows model names of 256 characters, so no valid name is shortened."""

MARK = "…"
"""The last character of shortened text."""


def shorten(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """Returns `text` if it has at most `max_characters` characters, else its beginning and `MARK`, `max_characters` in
    total."""
    return text if len(text) <= max_characters else text[: max_characters - 1] + MARK
