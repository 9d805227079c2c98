"""A key of the conversation that a prompt belongs to, read from its bytes."""

from xxhash import xxh3_64_intdigest

SEARCHED_BYTES = 32 * 1024
"""From a prompt's beginning. Searching all of a long prompt takes nearly as long as hashing it. A conversation whose
first answer comes later is recognised by its first blocks alone."""

_ASSISTANT, _USER, _ROLE = b'"assistant"', b'"user"', b'"role"'


_BETWEEN = b" \t\r\n,{}]"
"""Bytes between the end of a message's content and the next message, or the prompt's end."""


def session_key(prompt: bytes, seed: bytes) -> tuple[int | None, bool]:
    """A hash of `seed` and of `prompt` through its first user message, equal in all turns of a conversation; and
    whether this is a later turn than the first: an answer of the assistant begins within `SEARCHED_BYTES`.

    The hash is None for a prompt that is no chat, and for first turns longer than that. Where clients write a message's
    content before its role, the first turn has a hash of its own.

    `prompt` is JSON as the client wrote it, and is not parsed. Quotes inside a text are escaped, so a quoted role name
    is a role, or at worst a value that serves as well."""
    user = prompt.find(_USER, 0, SEARCHED_BYTES)
    if user < 0:
        return None, False
    continues = prompt.find(_ASSISTANT, 0, SEARCHED_BYTES) >= 0
    end = prompt.find(_ROLE, user)
    if not continues and end < 0 and len(prompt) <= SEARCHED_BYTES:
        end = len(prompt)
    if end < 0:
        return None, continues
    return xxh3_64_intdigest(prompt[:end].rstrip(_BETWEEN), xxh3_64_intdigest(seed)), continues
