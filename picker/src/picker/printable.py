"""Escapes external text for a terminal: it cannot move the cursor, set colours or change the writing direction."""

from typing import cast


def printable(text: str, keep: str = "") -> str:
    """Returns `text` with control, format and private characters as escapes (`\\\\x1b`, `\\\\u202e`), except those in
    `keep`."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else ascii(character)[1:-1] for character in text
    )


def printable_all(value: object) -> object:
    """Returns a JSON value in which all strings, including keys, are `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [printable_all(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return {printable(key): printable_all(item) for key, item in items}
    return value
