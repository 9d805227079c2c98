"""Sets of endpoints as the bits of a number, for indexes that say of each block who holds it."""

from collections.abc import Callable, Iterator, Sequence
from itertools import compress

from picker.endpoints.endpoint import Endpoint


class EndpointBitset:
    """Which endpoint has which bit."""

    __slots__ = ("_endpoints",)

    def __init__(self) -> None:
        self._endpoints: list[Endpoint | None] = []

    def __len__(self) -> int:
        """Bits that are or were taken."""
        return len(self._endpoints)

    def take(self, endpoint: Endpoint) -> int:
        """A bit for `endpoint`, as a mask: one that was freed if there is any."""
        if None in self._endpoints:
            slot = self._endpoints.index(None)
            self._endpoints[slot] = endpoint
        else:
            slot = len(self._endpoints)
            self._endpoints.append(endpoint)
        return 1 << slot

    def free(self, bit: int) -> None:
        """Its endpoint is gone, and out of all sets."""
        self._endpoints[bit.bit_length() - 1] = None

    def of(self, mask: int) -> Iterator[Endpoint | None]:
        """The endpoints of a set; None for bits that are free."""
        # The mask's binary digits, lowest first, as bytes 0 and 1: they select its endpoints.
        return compress(self._endpoints, bin(mask)[:1:-1].encode().translate(_DIGIT_VALUES))


def tiers(blocks: Sequence[int], holders_of: Callable[[int, int], int]) -> Iterator[tuple[int, int]]:
    """Who holds a beginning of a chain of blocks, as sets of those that hold equally many, fewest first, with how many.

    `holders_of(block, 0)` is the set that holds a block. An endpoint that holds a block holds those before it, so where
    the set changes is found by bisection."""
    if not blocks:
        return
    mask = holders_of(blocks[0], 0)
    count, depth = len(blocks), 0
    while mask:
        # Up to `depth` all of `mask` hold the chain, from `end` on not all.
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
