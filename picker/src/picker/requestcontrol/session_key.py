"""Which conversation a prompt is of, as far as its bytes tell."""

from xxhash import xxh3_64_intdigest

LOOKED_AT_BYTES = 32 * 1024
"""From a prompt's beginning. A conversation whose first answer comes later is known by its first blocks alone; looking
through all of a long prompt takes nearly as long as hashing it."""

_ASSISTANT, _USER, _ROLE = b'"assistant"', b'"user"', b'"role"'


_BETWEEN = b" \t\r\n,{}]"
"""May stand between the end of a message's content and the next one, or the prompt's end."""


def session_key(prompt: bytes, seed: bytes) -> tuple[int | None, bool]:
    """A hash of `seed` and of `prompt` through its first user message, equal in all turns of a conversation. And
    whether it is a later turn than the first: an answer of the assistant's begins within `LOOKED_AT_BYTES`.
    The hash is None for what is no chat, and for first turns longer than that. Where clients write a message's content
    before its role, the first turn has a hash of its own.

    `prompt` is JSON as the client wrote it, and is not parsed: a quote inside a text is escaped, so that the names of
    roles in quotes are roles, or at worst values that are as good."""
    user = prompt.find(_USER, 0, LOOKED_AT_BYTES)
    if user < 0:
        return None, False
    continues = prompt.find(_ASSISTANT, 0, LOOKED_AT_BYTES) >= 0
    end = prompt.find(_ROLE, user)
    if not continues and end < 0 and len(prompt) <= LOOKED_AT_BYTES:
        end = len(prompt)
    if end < 0:
        return None, continues
    return xxh3_64_intdigest(prompt[:end].rstrip(_BETWEEN), xxh3_64_intdigest(seed)), continues
