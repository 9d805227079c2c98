"""The content of prompts without text: only shared prefixes matter to a prefix cache."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain


@dataclass(frozen=True, slots=True)
class Piece:
    """A section of text. Its number identifies it together with all text before it.

    Two sequences that have a piece of the same number are equal up to the end of the piece in the shorter one."""

    number: int
    end_tokens: int
    """Position of its end in the sequence."""


MAX_BLOCKS = 1 << 20
"""Maximum number of blocks of a sequence. It keeps the keys of two pieces distinct."""


@dataclass(frozen=True, slots=True)
class Content:
    """A sequence of pieces with ascending ends. The last piece may be longer than the sequence."""

    pieces: tuple[Piece, ...]

    def spans(self, start: int, end: int, block_tokens: int) -> list[range]:
        """Keys of the full blocks from index `start` to `end`, as ranges of consecutive keys.

        A block has one key. Two keys are equal if and only if the sequences are equal up to the end of the block."""
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
        """This content followed by `piece`."""
        return Content((*self.pieces, piece))


@lru_cache(maxsize=4096)
def picker_blocks(content: Content, tokens: int, block_tokens: int) -> tuple[int, ...]:
    """The keys of the full blocks of the first `tokens`, used as the picker's block hashes."""
    return tuple(chain.from_iterable(content.spans(0, tokens // block_tokens, block_tokens)))
