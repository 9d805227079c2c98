"""Computes a key of the conversation that a prompt belongs to."""

from xxhash import xxh3_64_intdigest

SEARCHED_BYTES = 32 * 1024
"""From a prompt's beginning. A search of a whole long prompt takes nearly as long as hashing it. A conversation whose
first answer comes later is recognised only by its first blocks."""

_ASSISTANT, _USER, _ROLE = b'"assistant"', b'"user"', b'"role"'


_BETWEEN = b" \t\r\n,{}]"
"""Bytes between the end of a message's content and the next message, or the prompt's end."""


def session_key(prompt: bytes, seed: bytes) -> tuple[int | None, bool]:
    """Returns a hash of `seed` and of `prompt` through its first user message, which is equal in all turns of a
    conversation. Also returns whether this is a later turn: an answer of the assistant begins within `SEARCHED_BYTES`.

    The hash is None for a prompt that is not a chat, and for a first turn longer than `SEARCHED_BYTES`. If a client
    writes a message's content before its role, the hash of the first turn differs from that of the later turns.

    `prompt` is JSON as the client wrote it, and is not parsed. Quotes inside a text are escaped, so a role name in
    quotes is a role, or the whole value of another field. Such a value gives a usable hash too."""
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
