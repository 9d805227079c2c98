"""Sets of endpoints as the bits of an integer, for indexes from blocks to endpoints."""

from collections.abc import Callable, Iterator, Sequence
from itertools import compress

from picker.endpoints.endpoint import Endpoint


class EndpointBitset:
    """Assigns bits to endpoints."""

    __slots__ = ("_endpoints",)

    def __init__(self) -> None:
        self._endpoints: list[Endpoint | None] = []

    def __len__(self) -> int:
        """Number of bits that are or were in use."""
        return len(self._endpoints)

    def take(self, endpoint: Endpoint) -> int:
        """Assign a bit to `endpoint`, a freed one if there is any. Returns its mask."""
        if None in self._endpoints:
            slot = self._endpoints.index(None)
            self._endpoints[slot] = endpoint
        else:
            slot = len(self._endpoints)
            self._endpoints.append(endpoint)
        return 1 << slot

    def free(self, bit: int) -> None:
        """Free the bit of an endpoint that has left and is in no set."""
        self._endpoints[bit.bit_length() - 1] = None

    def of(self, mask: int) -> Iterator[Endpoint | None]:
        """The endpoints of a set. None for free bits."""
        # The mask's binary digits, lowest first, as bytes 0 and 1: they select the endpoints.
        return compress(self._endpoints, bin(mask)[:1:-1].encode().translate(_DIGIT_VALUES))


def tiers(blocks: Sequence[int], holders_of: Callable[[int, int], int]) -> Iterator[tuple[int, int]]:
    """Partitions the endpoints that hold a prefix of a chain of blocks: (set, number of blocks that each holds), lowest
    number first.

    `holders_of(block, 0)` is the set of endpoints that hold a block. An endpoint that holds a block holds all blocks
    before it, so bisection finds where the set changes.
    """
    if not blocks:
        return
    mask = holders_of(blocks[0], 0)
    count, depth = len(blocks), 0
    while mask:
        # All of `mask` hold the chain up to `depth`. Not all of them hold it from `end` on.
        depth, end, deeper = depth + 1, count, 0
        while depth < end:
            middle = (depth + end) // 2
            there = holders_of(blocks[middle], 0) & mask
            if there == mask:
                depth = middle + 1
            else:
                end, deeper = middle, there
        yield mask ^ deeper, depth
        mask = deeper


_DIGIT_VALUES = bytes.maketrans(b"01", b"\x00\x01")
