"""Text from outside for a terminal: nothing in it moves the cursor, sets colours or turns the writing around."""

from typing import cast


def printable(text: str, keep: str = "") -> str:
    """`text` with control, format and private characters as escapes (`\\x1b`, `\\u202e`), but for those in `keep`."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else ascii(each)[1:-1] for each in text)


def printable_all(value: object) -> object:
    """A value of JSON whose texts, keys included, are `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [printable_all(each) for each in cast("list[object]", value)]
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return {printable(key): printable_all(each) for key, each in items}
    return value
