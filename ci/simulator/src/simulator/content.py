"""What a prompt holds, without its text: who has the same beginning is all that a cache asks."""

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text. Its number stands for everything before it too: two sequences that have a piece of the same
    number are equal up to where the shorter one leaves it."""

    number: int
    end_tokens: int
    """Where it ends in the sequence."""


MAX_BLOCKS = 1 << 20
"""Of one sequence; what keeps the keys of two pieces apart."""


@dataclass(frozen=True, slots=True)
class Content:
    """A sequence as pieces, their ends ascending. The last piece may be longer than the sequence."""

    pieces: tuple[Piece, ...]

    def keys(self, tokens: int, block_tokens: int) -> list[int]:
        """One number for each full block of the first `tokens`: equal if and only if the sequences are equal up to the
        block's end."""
        keys: list[int] = []
        blocks = tokens // block_tokens
        for piece in self.pieces:
            end = min(blocks, piece.end_tokens // block_tokens)
            start = len(keys)
            if end > start:
                base = piece.number * MAX_BLOCKS
                keys.extend(range(base + start, base + end))
        return keys

    def then(self, piece: Piece) -> "Content":
        """This content with `piece` after it."""
        return Content((*self.pieces, piece))


@lru_cache(maxsize=4096)
def picker_blocks(content: Content, tokens: int, block_tokens: int) -> tuple[int, ...]:
    """The same as a tuple, as the picker's block hashes are."""
    return tuple(content.keys(tokens, block_tokens))
