"""The prefix index of a pool whose servers publish KV events.

Servers report blocks of tokens, and requests are text. A text block is mapped to the token block at its end, once the
tokens of a prompt with it are known. From then on it is held where a server reports that token block. Blocks that are
not mapped yet, and endpoints that publish no KV events, use the estimated index.

Mappings are correct without a tokenizer or a chat template here: a block is mapped only if the server that served the
prompt holds exactly those tokens.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.index import PrefixIndex, SentPrompt, depth_of, sampled_hashes
from picker.endpoints.prefix_cache.kv_events.reported_blocks import ReportedBlocks, chain_root, token_chain

MAX_MAPPED_BLOCKS = 262_144
"""Limit on mapped text blocks, least recently used out first: some 60 MiB. A gateway with more than 16 million tokens
of repeated text uses the estimate for the rest."""


class KvEventIndex(PrefixIndex):
    """A `PrefixIndex` that prefers reported blocks to the estimate."""

    def __init__(
        self, block_tokens: int, held: ReportedBlocks, pool: Sequence[Endpoint], max_mapped: int = MAX_MAPPED_BLOCKS
    ) -> None:
        """`held`: the reported blocks of all followed endpoints, other pools' included. `pool`: this pool's endpoints,
        updated in place."""
        super().__init__(block_tokens)
        self._reported = held
        self._pool = pool
        self._max_mapped = max_mapped
        self._token_blocks: OrderedDict[int, int] = OrderedDict()
        """Token block by text block. The mapped blocks of a prompt are always a prefix of it: see `_LruBlocks`."""
        self._mapped_size = 0
        """Tokens per mapped token block."""
        self._decided_on: Sequence[int] | None = None
        self._looked_up: tuple[Sequence[int], Mapping[Endpoint | None, int]] = (), {}

    def matches(self, hashes: Sequence[int], endpoints: Sequence[Endpoint]) -> Sequence[int]:
        estimates = super().matches(hashes, endpoints)
        chain, reported = self._looked_up = self._look_up(hashes)
        self._decided_on = hashes
        if not chain:
            return estimates
        mapped, all_known = len(chain), self._reported.all_known(self._mapped_size)
        depths: list[int] = []
        for endpoint, estimate in zip(endpoints, estimates, strict=True):
            count = reported.get(endpoint, 0)
            depth = depth_of(count)
            if depth < estimate and (count == mapped or endpoint not in all_known):
                depth = estimate
            depths.append(depth)
        return depths

    def cached_blocks(self, endpoint: Endpoint, hashes: Sequence[int]) -> int:
        return self.matches(hashes, (endpoint,))[0]

    def holders(self, hashes: Sequence[int], most: int) -> list[Endpoint]:
        _, reported = self._look_up(hashes)
        in_pool = (endpoint for endpoint in reported if endpoint in self._pool)
        deepest = sorted(in_pool, key=reported.__getitem__, reverse=True)
        estimated = super().holders(hashes, most)
        return list(dict.fromkeys([endpoint for endpoint in (*deepest, *estimated) if endpoint is not None]))[:most]

    def reported_blocks(self, endpoint: Endpoint) -> int | None:
        return self._reported.stored_blocks(endpoint)

    def fully_reported(self, endpoint: Endpoint) -> bool:
        return self._reported.knows_all(endpoint)

    def sent(self, endpoint: Endpoint, hashes: Sequence[int]) -> SentPrompt | None:
        # Most prompts are sent directly after the decision on them.
        chain, reported = self._looked_up if hashes is self._decided_on else self._look_up(hashes)
        self._decided_on = None
        sampled = sampled_hashes(hashes)
        unnamed = self._last_unmapped(sampled, len(chain)) if self._reported.block_size(endpoint) is not None else None
        self.record(endpoint, hashes)
        if 2 * len(self._token_blocks) > self._max_mapped:
            for block in reversed(sampled[: len(chain)]):
                self._token_blocks.move_to_end(block)
        # Blocks that are there already are not evicted while the request runs.
        expected = chain[reported.get(endpoint, 0) :]
        if expected:
            self._reported.expect(endpoint, expected)
        return SentPrompt(endpoint, expected, unnamed) if expected or unnamed is not None else None

    def ended(self, sent: SentPrompt) -> None:
        self._reported.settle(sent.endpoint, sent.expected)
        if sent.on_end is not None:
            on_end, sent.on_end = sent.on_end, None
            on_end()

    def learn(
        self, endpoint: Endpoint, hashes: Sequence[int], ends: Sequence[int], tokens: Sequence[int], model: str | None
    ) -> int:
        """Map the text blocks of a prompt that `endpoint` has served. Returns how many of its blocks are mapped.

        `ends[i]` of its `tokens` are in the text up to the end of block i. `model` may be an adapter or not: the chain
        that the server holds decides. Raises ValueError if a token is out of range.
        """
        size = self._reported.block_size(endpoint)
        if size is None:
            return 0
        chain: list[int] = []
        for lora in (model, None):
            chain = token_chain(tokens, size, chain_root(size, lora))
            if depth := self._reported.depth(endpoint, chain):
                break
        else:
            return 0
        if size != self._mapped_size:
            self._token_blocks.clear()
            self._mapped_size = size
        sampled = sampled_hashes(hashes)
        # A text block that ends within the first token block is mapped to it: it is the start of nothing else.
        positions = [max(1, ends[depth_of(number + 1) - 1] // size) for number in range(len(sampled))]
        known = bisect_left(positions, depth + 1)
        for block, position in zip(reversed(sampled[:known]), reversed(positions[:known]), strict=True):
            self._token_blocks[block] = chain[position - 1]
            self._token_blocks.move_to_end(block)
        while len(self._token_blocks) > self._max_mapped:
            self._token_blocks.popitem(last=False)
        return depth_of(known)

    def _last_unmapped(self, sampled: Sequence[int], mapped: int) -> int | None:
        """The last block of a prompt that was sent to any endpoint before, if it comes after the mapped blocks."""
        seen = self._holders
        if len(sampled) == mapped or sampled[mapped] not in seen:
            return None
        return sampled[bisect_left(sampled, True, lo=mapped, key=lambda block: block not in seen) - 1]

    def _look_up(self, hashes: Sequence[int]) -> tuple[Sequence[int], Mapping[Endpoint | None, int]]:
        """The token blocks of the prompt's mapped prefix, stored blocks only, and how many of them each endpoint
        reports to hold."""
        token_blocks, sampled = self._token_blocks, sampled_hashes(hashes)
        if not sampled or sampled[0] not in token_blocks:
            return (), {}
        mapped = bisect_left(sampled, True, lo=1, key=lambda block: block not in token_blocks)
        chain = list(map(token_blocks.__getitem__, sampled[:mapped]))
        return chain, self._reported.depths(chain)
