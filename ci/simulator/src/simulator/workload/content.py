"""What a prompt holds, without its text: who has the same beginning is all that a cache asks."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain


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

    def spans(self, start: int, end: int, block_tokens: int) -> list[range]:
        """Keys of the full blocks from `start` to `end`, each span consecutive: one number a block, equal if and only
        if the sequences are equal up to the block's end."""
        spans: list[range] = []
        at = 0
        for piece in self.pieces:
            until = min(end, piece.end_tokens // block_tokens)
            if until > at:
                if until > start:
                    base = piece.number * MAX_BLOCKS
                    spans.append(range(base + max(at, start), base + until))
                at = until
        return spans

    def then(self, piece: Piece) -> "Content":
        """This content with `piece` after it."""
        return Content((*self.pieces, piece))


@lru_cache(maxsize=4096)
def picker_blocks(content: Content, tokens: int, block_tokens: int) -> tuple[int, ...]:
    """The keys of the first `tokens`, as the picker's block hashes are."""
    return tuple(chain.from_iterable(content.spans(0, tokens // block_tokens, block_tokens)))
