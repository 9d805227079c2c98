"""Which conversation a prompt continues, as far as its bytes tell."""

from xxhash import xxh3_64_intdigest

LOOKED_AT_BYTES = 32 * 1024
"""From a prompt's beginning. A conversation whose first answer comes later is known by its first blocks alone; looking
through all of a long prompt takes nearly as long as hashing it."""

_ASSISTANT, _USER, _ROLE = b'"assistant"', b'"user"', b'"role"'


def conversation(prompt: bytes, seed: bytes) -> int | None:
    """A hash of `seed` and of `prompt` through its first user message, where an answer of the assistant's begins
    within the first `LOOKED_AT_BYTES`: equal in all turns of a conversation but the first. None for a first turn, and
    for what is no chat.

    `prompt` is JSON as the client wrote it, and is not parsed: a quote inside a text is escaped, so that the names of
    roles in quotes are roles, or at worst values that are as good."""
    if prompt.find(_ASSISTANT, 0, LOOKED_AT_BYTES) < 0:
        return None
    user = prompt.find(_USER, 0, LOOKED_AT_BYTES)
    end = prompt.find(_ROLE, user) if user >= 0 else -1
    return None if end < 0 else xxh3_64_intdigest(prompt[:end], xxh3_64_intdigest(seed))
