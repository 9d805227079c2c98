"""The prefix index of a pool whose servers tell what they hold.

Servers tell of blocks of tokens, requests come as text. A block of text gets a name: the block of tokens that its end
falls into, once the tokens of a prompt with it are known. From then on it is held where that block of tokens is held,
by the servers' own word. Blocks without a name, and endpoints that do not tell, go by the estimate as before.

Names are right without anybody knowing a tokenizer or a chat template: one is given only if the server that served the
prompt holds just those tokens."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.index import PrefixIndex, SentPrompt, depth_of, sampled_hashes
from picker.endpoints.prefix_cache.kv_events.reported_blocks import ReportedBlocks, chain_root, token_chain

MAX_NAMES = 262_144
"""Blocks of text with a name, those not used for longest out first: some 60 MiB. A gateway with more repeating text
than 16 million tokens estimates the rest."""


class KvEventIndex(PrefixIndex):
    """See the module."""

    def __init__(
        self, block_tokens: int, held: ReportedBlocks, pool: Sequence[Endpoint], max_names: int = MAX_NAMES
    ) -> None:
        """`held`: of all endpoints that are followed, those of other pools among them. `pool`: this one's, kept up to
        date in place."""
        super().__init__(block_tokens)
        self._held = held
        self._pool = pool
        self._max_names = max_names
        self._names: OrderedDict[int, int] = OrderedDict()
        """What is named of a prompt is always a beginning of it: see `_LruBlocks`."""
        self._named_size = 0
        """Tokens of a block that names mean."""
        self._decided_on: Sequence[int] | None = None
        self._looked_up: tuple[Sequence[int], Mapping[Endpoint | None, int]] = (), {}

    def matches(self, hashes: Sequence[int], endpoints: Sequence[Endpoint]) -> Sequence[int]:
        estimates = super().matches(hashes, endpoints)
        chain, told = self._looked_up = self._look_up(hashes)
        self._decided_on = hashes
        if not chain:
            return estimates
        named, all_known = len(chain), self._held.all_known(self._named_size)
        depths: list[int] = []
        for endpoint, estimate in zip(endpoints, estimates, strict=True):
            marks = told.get(endpoint, 0)
            depth = depth_of(marks)
            if depth < estimate and (marks == named or endpoint not in all_known):
                depth = estimate
            depths.append(depth)
        return depths

    def cached_blocks(self, endpoint: Endpoint, hashes: Sequence[int]) -> int:
        return self.matches(hashes, (endpoint,))[0]

    def holders(self, hashes: Sequence[int], most: int) -> list[Endpoint]:
        _, told = self._look_up(hashes)
        deepest = sorted((endpoint for endpoint in told if endpoint in self._pool), key=told.__getitem__, reverse=True)
        estimated = super().holders(hashes, most)
        return list(dict.fromkeys([endpoint for endpoint in (*deepest, *estimated) if endpoint is not None]))[:most]

    def reported_blocks(self, endpoint: Endpoint) -> int | None:
        return self._held.stored_blocks(endpoint)

    def fully_reported(self, endpoint: Endpoint) -> bool:
        return self._held.knows_all(endpoint)

    def sent(self, endpoint: Endpoint, hashes: Sequence[int]) -> SentPrompt | None:
        # Most prompts are sent in the step in which they were decided on.
        chain, told = self._looked_up if hashes is self._decided_on else self._look_up(hashes)
        self._decided_on = None
        marks = sampled_hashes(hashes)
        unnamed = self._last_seen(marks, len(chain)) if self._held.block_size(endpoint) is not None else None
        self.record(endpoint, hashes)
        if 2 * len(self._names) > self._max_names:
            for mark in reversed(marks[: len(chain)]):
                self._names.move_to_end(mark)
        # Of what is there already nothing is reused while the request runs.
        expected = chain[told.get(endpoint, 0) :]
        if expected:
            self._held.expect(endpoint, expected)
        return SentPrompt(endpoint, expected, unnamed) if expected or unnamed is not None else None

    def ended(self, sent: SentPrompt) -> None:
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
        marks = sampled_hashes(hashes)
        # A block of text that ends within the first block of tokens is named after it: it begins nothing else.
        places = [max(1, ends[depth_of(number + 1) - 1] // size) for number in range(len(marks))]
        known = bisect_left(places, depth + 1)
        for mark, place in zip(reversed(marks[:known]), reversed(places[:known]), strict=True):
            self._names[mark] = chain[place - 1]
            self._names.move_to_end(mark)
        while len(self._names) > self._max_names:
            self._names.popitem(last=False)
        return depth_of(known)

    def _last_seen(self, marks: Sequence[int], named: int) -> int | None:
        """The last of a prompt's blocks that any endpoint was sent before, if it comes after those with a name."""
        seen = self._holders
        if len(marks) == named or marks[named] not in seen:
            return None
        return marks[bisect_left(marks, True, lo=named, key=lambda block: block not in seen) - 1]

    def _look_up(self, hashes: Sequence[int]) -> tuple[Sequence[int], Mapping[Endpoint | None, int]]:
        """The names of a prompt's blocks as far as it has them, those that are remembered, and how many of them the
        endpoints say to hold."""
        names, marks = self._names, sampled_hashes(hashes)
        if not marks or marks[0] not in names:
            return (), {}
        named = bisect_left(marks, True, lo=1, key=lambda block: block not in names)
        chain = list(map(names.__getitem__, marks[:named]))
        return chain, self._held.depths(chain)
