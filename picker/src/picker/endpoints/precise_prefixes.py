"""The prefix index of a pool whose servers tell what they hold.

Servers tell of blocks of tokens, requests come as text. A block of text gets a name: the block of tokens that its end
falls into, once the tokens of a prompt with it are known. From then on it is held where that block of tokens is held,
by the servers' own word. Blocks without a name, and endpoints that do not tell, go by the estimate as before.

Names are right without anybody knowing a tokenizer or a chat template: one is given only if the server that served the
prompt holds just those tokens."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.kv_events.held_blocks import HeldBlocks, chain_root, token_chain
from picker.endpoints.prefixes import PrefixIndex, Sent, depth_of, marks_of

MAX_NAMES = 262_144
"""Blocks of text with a name, those not used for longest out first: some 60 MiB. A gateway with more repeating text
than 16 million tokens estimates the rest."""


class PrecisePrefixIndex(PrefixIndex):
    """See the module."""

    def __init__(
        self, block_tokens: int, held: HeldBlocks, pool: Sequence[Endpoint], max_names: int = MAX_NAMES
    ) -> None:
        """`held`: of all endpoints that are followed, those of other pools among them. `pool`: this one's, kept up to
        date in place."""
        super().__init__(block_tokens)
        self._held = held
        self._pool = pool
        self._max_names = max_names
        self._names: OrderedDict[int, int] = OrderedDict()
        """What is named of a prompt is always a beginning of it: see `_Holding`."""
        self._named_size = 0
        """Tokens of a block that names mean."""

    def matches(self, hashes: Sequence[int], endpoints: Sequence[Endpoint]) -> Sequence[int]:
        estimates = super().matches(hashes, endpoints)
        chain = self._chain(hashes)
        if not chain:
            return estimates
        told, named = self._held.depths(chain), len(chain)
        depths: list[int] = []
        for endpoint, estimate in zip(endpoints, estimates, strict=True):
            marks = told.get(endpoint, 0)
            if marks < named and self._held.knows_all(endpoint, self._named_size):
                depths.append(depth_of(marks))
            else:
                depths.append(max(depth_of(marks), estimate))
        return depths

    def cached_blocks(self, endpoint: Endpoint, hashes: Sequence[int]) -> int:
        return self.matches(hashes, (endpoint,))[0]

    def holders(self, hashes: Sequence[int], most: int) -> list[Endpoint]:
        told = self._held.depths(self._chain(hashes))
        deepest = sorted((endpoint for endpoint in told if endpoint in self._pool), key=told.__getitem__, reverse=True)
        estimated = super().holders(hashes, most)
        return list(dict.fromkeys([endpoint for endpoint in (*deepest, *estimated) if endpoint is not None]))[:most]

    def sent(self, endpoint: Endpoint, hashes: Sequence[int]) -> Sent | None:
        chain = self._chain(hashes)
        marks = marks_of(hashes)
        seen = bisect_left(marks, True, key=lambda block: block not in self._holders)
        self.record(endpoint, hashes)
        for mark in reversed(marks[: len(chain)]):
            self._names.move_to_end(mark)
        if chain:
            self._held.expect(endpoint, chain)
        unnamed = marks[seen - 1] if seen > len(chain) and self._held.block_size(endpoint) is not None else None
        return Sent(endpoint, chain, unnamed) if chain or unnamed is not None else None

    def ended(self, sent: Sent) -> None:
        self._held.settle(sent.endpoint, sent.expected)
        if sent.on_end is not None:
            on_end, sent.on_end = sent.on_end, None
            on_end()

    def learn(
        self, endpoint: Endpoint, hashes: Sequence[int], ends: Sequence[int], tokens: Sequence[int], model: str | None
    ) -> int:
        """Name the blocks of a prompt that `endpoint` has served: `ends[i]` of its `tokens` are in the text up to the
        end of block i. How many blocks have names now. Raises ValueError when those are no tokens.

        `model` may be an adapter or not: the chain that is held tells."""
        size = self._held.block_size(endpoint)
        if size is None:
            return 0
        chain: list[int] = []
        for lora in (model, None):
            chain = token_chain(tokens, size, chain_root(size, lora))
            if depth := self._held.depth(endpoint, chain):
                break
        else:
            return 0
        if size != self._named_size:
            self._names.clear()
            self._named_size = size
        marks = marks_of(hashes)
        # A block of text that ends within the first block of tokens is named after it: it begins nothing else.
        places = [max(1, ends[depth_of(number + 1) - 1] // size) for number in range(len(marks))]
        known = bisect_left(places, depth + 1)
        for mark, place in zip(reversed(marks[:known]), reversed(places[:known]), strict=True):
            self._names[mark] = chain[place - 1]
            self._names.move_to_end(mark)
        while len(self._names) > self._max_names:
            self._names.popitem(last=False)
        return depth_of(known)

    def _chain(self, hashes: Sequence[int]) -> Sequence[int]:
        """The names of a prompt's blocks as far as it has them, those that are remembered."""
        names = self._names
        if not names:
            return ()
        marks = marks_of(hashes)
        return [names[mark] for mark in marks[: bisect_left(marks, True, key=lambda block: block not in names)]]
