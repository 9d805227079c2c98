"""A prefix index that prefers reported blocks to its own estimate."""

from collections.abc import Sequence
from random import Random

from fleet import endpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.index import COARSE_STRIDE, FINE_BLOCKS, PrefixIndex, SentPrompt
from picker.endpoints.prefix_cache.kv_event_index import KvEventIndex
from picker.endpoints.prefix_cache.kv_events.messages import BlockRemoved, BlockStored
from picker.endpoints.prefix_cache.kv_events.reported_blocks import ReportedBlocks, chain_root, token_chain

SIZE = 16
TEXT_TOKENS = 64
"""Of a block of text."""
A, B = endpoint(1), endpoint(2)


def tokens(blocks: Sequence[int]) -> list[int]:
    """The tokens of a prompt of these text blocks: four token blocks each."""
    return [block * 1000 + place for block in blocks for place in range(TEXT_TOKENS)]


def ends(blocks: Sequence[int]) -> list[int]:
    return [TEXT_TOKENS * (number + 1) for number in range(len(blocks))]


class Fleet:
    """Two endpoints and the index of a pool of them. Hashes of text blocks are chained, as numbers."""

    def __init__(self, *followed: Endpoint) -> None:
        self.held = ReportedBlocks()
        self.index = KvEventIndex(TEXT_TOKENS, self.held, [A, B])
        for item in followed or (A, B):
            self.held.follow(item)
            self.held.restart(item, empty=True)

    def stores(self, where: Endpoint, blocks: Sequence[int], lora: str | None = None) -> None:
        """`where` has computed a prompt."""
        ids = tokens(blocks)
        hashes = token_chain(ids, SIZE, chain_root(SIZE, lora))
        self.held.apply(where, [BlockStored(hashes, None, ids, SIZE, int(bool(lora)) or None, "GPU", lora)])

    def removes(self, where: Endpoint, blocks: Sequence[int], keep: int, lora: str | None = None) -> None:
        """Remove all but the first `keep` text blocks of a prompt."""
        hashes = token_chain(tokens(blocks), SIZE, chain_root(SIZE, lora))
        self.held.apply(where, [BlockRemoved(hashes[keep * TEXT_TOKENS // SIZE :])])

    def serves(self, where: Endpoint, blocks: Sequence[int]) -> None:
        sent = self.index.sent(where, text(blocks))
        self.stores(where, blocks)
        if sent is not None:
            self.index.ended(sent)

    def learns(self, where: Endpoint, blocks: Sequence[int], model: str | None = "qwen") -> int:
        return self.index.learn(where, text(blocks), ends(blocks), tokens(blocks), model)

    def known(self, blocks: Sequence[int]) -> list[int]:
        return list(self.index.matches(text(blocks), [A, B]))


def text(blocks: Sequence[int]) -> tuple[int, ...]:
    """Chained hashes."""
    return tuple(hash(("text", *blocks[: number + 1])) for number in range(len(blocks)))


PROMPT = (1, 2, 3, 4, 5)


def test_without_known_tokens_the_estimate_is_used() -> None:
    fleet = Fleet()
    fleet.serves(A, PROMPT)
    assert fleet.known(PROMPT) == [5, 0]


def test_evicted_blocks_are_known_at_once() -> None:
    fleet = Fleet()
    fleet.serves(A, PROMPT)
    assert fleet.learns(A, PROMPT) == 5
    assert fleet.known(PROMPT) == [5, 0]
    fleet.removes(A, PROMPT, keep=2)
    assert fleet.known(PROMPT) == [2, 0]
    assert fleet.index.cached_blocks(A, text(PROMPT)) == 2


def test_blocks_of_other_clients_are_known() -> None:
    """Those of another picker, or of a client of the servers themselves."""
    fleet = Fleet()
    fleet.serves(A, PROMPT)
    fleet.learns(A, PROMPT)
    fleet.stores(B, PROMPT[:3])
    assert fleet.known(PROMPT) == [5, 3]
    assert fleet.index.holders(text(PROMPT), 8) == [A, B]


def test_a_prompt_on_its_way_counts_as_held() -> None:
    fleet = Fleet()
    fleet.serves(A, PROMPT)
    fleet.learns(A, PROMPT)
    sent = fleet.index.sent(B, text(PROMPT))
    assert isinstance(sent, SentPrompt)
    assert fleet.known(PROMPT) == [5, 5]
    fleet.index.ended(sent)
    assert fleet.known(PROMPT) == [5, 0], "its client left before it was computed"


def test_beyond_the_mapped_blocks_the_estimate_is_used() -> None:
    fleet = Fleet()
    fleet.serves(A, PROMPT[:3])
    fleet.learns(A, PROMPT[:3])
    fleet.index.record(A, text(PROMPT))
    assert fleet.known(PROMPT) == [5, 0]
    fleet.removes(A, PROMPT[:3], keep=2)
    assert fleet.known(PROMPT) == [2, 0], "what follows a block that is gone is gone"


def test_for_an_incomplete_endpoint_the_larger_value_is_used() -> None:
    fleet = Fleet(A)
    fleet.serves(A, PROMPT)
    fleet.learns(A, PROMPT)
    fleet.index.record(B, text(PROMPT[:4]))
    assert fleet.known(PROMPT) == [5, 4], "B publishes no events"
    fleet.held.restart(A, empty=False)
    assert fleet.known(PROMPT) == [5, 4], "A has lost its thread"
    fleet.held.restart(A, empty=True)
    fleet.stores(A, PROMPT[:1])
    assert fleet.known(PROMPT) == [1, 4]


def test_only_a_repeated_prefix_is_worth_mapping() -> None:
    fleet = Fleet()
    fleet.serves(A, PROMPT)
    sent = fleet.index.sent(A, text((*PROMPT[:3], 8, 9)))
    assert sent is not None
    assert sent.unnamed == text(PROMPT)[2]
    fleet.learns(A, PROMPT)
    assert fleet.index.sent(A, text((7, 7))) is None
    assert fleet.index.sent(A, text(PROMPT)) is None


def test_tokens_that_the_server_does_not_hold_map_nothing() -> None:
    """They are of another template or tokenizer than those of the server."""
    fleet = Fleet()
    fleet.serves(A, PROMPT)
    assert fleet.learns(A, (9, 9)) == 0
    assert fleet.index.learn(A, text(PROMPT), ends(PROMPT), [1] * 320, "qwen") == 0
    assert fleet.known(PROMPT) == [5, 0]
    assert fleet.index.learn(endpoint(3), text(PROMPT), ends(PROMPT), tokens(PROMPT), "qwen") == 0


def test_only_the_part_that_the_server_holds_is_mapped() -> None:
    fleet = Fleet()
    fleet.stores(A, PROMPT[:2])
    assert fleet.learns(A, PROMPT) == 2


def test_reported_blocks_decide_whether_a_model_is_an_adapter() -> None:
    fleet = Fleet()
    fleet.stores(A, PROMPT, lora="sql")
    fleet.stores(B, PROMPT)
    fleet.learns(A, PROMPT, model="sql")
    assert fleet.known(PROMPT) == [5, 0]


def test_a_text_block_within_the_first_token_block_is_mapped_to_it() -> None:
    fleet = Fleet()
    fleet.stores(A, PROMPT)
    fleet.index.learn(A, text(PROMPT), [10, 20, 200, 250, 320], tokens(PROMPT), "qwen")
    assert fleet.known(PROMPT) == [5, 0]
    fleet.removes(A, PROMPT, keep=1)
    assert fleet.known(PROMPT) == [2, 0]


def test_mapped_blocks_are_bounded_and_least_recent_ones_dropped() -> None:
    held = ReportedBlocks()
    held.follow(A)
    held.restart(A, empty=True)
    fleet = Fleet()
    fleet.index = KvEventIndex(TEXT_TOKENS, fleet.held, [A, B], max_mapped=10)
    first, second, third = (1,) * 5, (2,) * 5, (3,) * 5
    for prompt in (first, second, third):
        fleet.stores(A, prompt)
    fleet.learns(A, first)
    fleet.learns(A, second)
    fleet.index.sent(A, text(first))
    fleet.learns(A, third[:2])
    assert fleet.known(first) == [5, 0]
    assert fleet.known(second)[0] == 3


def test_another_block_size_drops_all_mappings() -> None:
    """Servers have restarted with another `--block-size`."""
    fleet = Fleet()
    fleet.stores(A, PROMPT)
    fleet.learns(A, PROMPT)
    fleet.held.restart(B, empty=True)
    ids = tokens(PROMPT)
    hashes = token_chain(ids, 32, chain_root(32, None))
    fleet.held.apply(B, [BlockStored(hashes, None, ids, 32)])
    assert fleet.known(PROMPT) == [5, 0]
    fleet.learns(B, PROMPT)
    assert fleet.known(PROMPT) == [0, 5]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3 * FINE_BLOCKS), st.integers(0, 3 * FINE_BLOCKS), st.integers(0, 1 << 30))
def test_long_prompts_are_known_to_a_stride(length: int, kept: int, seed: int) -> None:
    fleet, kept = Fleet(), min(length, kept)
    prompt = tuple(Random(seed).sample(range(100_000), length))
    fleet.serves(A, prompt)
    fleet.learns(A, prompt)
    fleet.removes(A, prompt, keep=kept)
    known = fleet.known(prompt)[0]
    assert known <= kept or kept == 0
    assert kept - known < (COARSE_STRIDE if kept > FINE_BLOCKS else 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([A, B]), st.lists(st.integers(0, 1), min_size=1, max_size=4)), max_size=12))
def test_without_mappings_it_is_the_estimated_index(sends: list[tuple[Endpoint, list[int]]]) -> None:
    fleet, plain = Fleet(), PrefixIndex(TEXT_TOKENS)
    for where, prompt in sends:
        fleet.index.sent(where, text(prompt))
        plain.record(where, text(prompt))
        assert fleet.known(prompt) == list(plain.matches(text(prompt), [A, B]))
