"""A server's reported blocks stay correct through losses and restarts; over real sockets."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from event_server import CLEARED, SIZE, EventServer, free_port, removed, running, stored, until
from fleet import endpoint
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.kv_events import subscription
from picker.endpoints.prefix_cache.kv_events.messages import Event
from picker.endpoints.prefix_cache.kv_events.reported_blocks import ReportedBlocks, chain_root, token_chain
from picker.endpoints.prefix_cache.kv_events.subscription import Subscription

SERVER = endpoint(1)


@dataclass
class Followed:
    """A subscription and its reported blocks."""

    port: int = field(default_factory=free_port)
    replay_port: int = field(default_factory=free_port)
    held: ReportedBlocks = field(default_factory=ReportedBlocks)
    emptied: list[Endpoint] = field(default_factory=list[Endpoint])

    def blocks(self) -> set[int]:
        """The first blocks of sequences."""
        return {number for number in range(20) if self.held.depth(SERVER, chain(number))}

    @property
    def complete(self) -> bool:
        return SERVER in self.held.all_known(SIZE)

    async def assert_blocks(self, *blocks: int, complete: bool) -> None:
        try:
            await until(lambda: self.blocks() == set(blocks) and self.complete == complete)
        except TimeoutError:
            assert (self.blocks(), self.complete) == (set(blocks), complete)

    @asynccontextmanager
    async def following(self, replay: bool = True) -> AsyncIterator[None]:
        events = f"tcp://127.0.0.1:{self.port}"
        again = f"tcp://127.0.0.1:{self.replay_port}" if replay else None
        created = Subscription(SERVER, self.held, events, again, self.emptied.append)
        async with running(asyncio.create_task(created.run())):
            yield

    def server(self, replay: bool = True, kept: int = 10_000) -> EventServer:
        return EventServer(self.port, self.replay_port if replay else None, kept)


def chain(*numbers: int) -> list[int]:
    return token_chain([number for number in numbers for _ in range(SIZE)], SIZE, chain_root(SIZE, None))


async def test_what_a_server_stores_and_removes_is_known() -> None:
    followed = Followed()
    async with followed.server() as server, followed.following():
        await server.subscribed()
        await server.publish(stored(1), stored(2, parent=1), stored(3))
        await server.publish(removed(3))
        await followed.assert_blocks(1, complete=True)
        assert followed.held.depth(SERVER, chain(1, 2)) == 2
        await server.publish(CLEARED, stored(4))
        await followed.assert_blocks(4, complete=True)
        assert followed.emptied == [SERVER]


async def test_a_late_subscriber_requests_all_that_is_kept() -> None:
    followed = Followed()
    async with followed.server() as server:
        for number in range(5):
            server.lose(stored(number))
        async with followed.following():
            await followed.assert_blocks(0, 1, 2, 3, 4, complete=True)
            assert server.requested == [0]


async def test_without_the_first_batches_the_known_part_counts() -> None:
    followed = Followed()
    async with followed.server(kept=2) as server:
        for number in range(5):
            server.lose(stored(number))
        async with followed.following():
            await followed.assert_blocks(3, 4, complete=False)
            await server.subscribed()
            await server.publish(stored(5), removed(0), removed(3))
            await followed.assert_blocks(4, 5, complete=False)
            await server.publish(CLEARED, stored(6))
            await followed.assert_blocks(6, complete=True)


async def test_a_lost_batch_is_requested_again() -> None:
    followed = Followed()
    async with followed.server() as server, followed.following():
        await server.subscribed()
        await server.publish(stored(1))
        await followed.assert_blocks(1, complete=True)
        server.lose(stored(2))
        await server.publish(stored(3))
        await followed.assert_blocks(1, 2, 3, complete=True)


async def test_a_batch_that_is_lost_for_good_drops_earlier_blocks() -> None:
    followed = Followed()
    async with followed.server(replay=False) as server, followed.following(replay=False):
        await server.subscribed()
        await server.publish(stored(1))
        await followed.assert_blocks(1, complete=True)
        server.lose(removed(1))
        await server.publish(stored(3))
        await followed.assert_blocks(3, complete=False)
        assert followed.emptied == []


@pytest.mark.parametrize("batches", [1, 2, 3, 9], ids=lambda number: f"{number} batches since")
async def test_a_restarted_server_has_an_empty_cache(batches: int) -> None:
    """However many batches it has published before the reconnection: fewer than the last process, as many, or more."""
    followed = Followed()
    async with followed.following():
        async with followed.server() as server:
            await server.subscribed()
            await server.publish(stored(1))
            await server.publish(stored(2))
            await followed.assert_blocks(1, 2, complete=True)
        async with followed.server() as server:
            for number in range(batches):
                server.lose(stored(10 + number % 3))
            await server.subscribed()
            await server.publish(stored(5))
            await followed.assert_blocks(5, *(10 + number % 3 for number in range(batches)), complete=True)
            assert followed.emptied == [SERVER]


async def test_after_a_reconnection_missing_batches_are_requested_at_once() -> None:
    """Also without a new event: the blocks of another process are wrong."""
    followed = Followed()
    async with followed.following():
        async with followed.server() as server:
            await server.subscribed()
            await server.publish(stored(1))
            await followed.assert_blocks(1, complete=True)
        async with followed.server() as server:
            await followed.assert_blocks(complete=False)
            assert followed.emptied == [SERVER]


async def test_without_replay_a_reconnected_server_is_not_known() -> None:
    followed = Followed()
    async with followed.following(replay=False):
        async with followed.server(replay=False) as server:
            await server.subscribed()
            await server.publish(stored(1))
            await followed.assert_blocks(1, complete=True)
        async with followed.server(replay=False) as server:
            await followed.assert_blocks(complete=False)
            await server.subscribed()
            await server.publish(stored(2))
            await followed.assert_blocks(2, complete=True)


async def test_a_replay_address_without_answer_drops_earlier_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "REPLAY_TIMEOUT_S", 0.05)
    followed = Followed()
    async with followed.server(replay=False) as server, followed.following():
        await server.subscribed()
        await server.publish(stored(1))
        await followed.assert_blocks(1, complete=True)
        server.lose(stored(2))
        await server.publish(stored(3))
        await followed.assert_blocks(3, complete=False)


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(lambda number: (b"kv", number, b"no batch"), id="no batch"),
        pytest.param(
            lambda number: (b"kv", number, b"\x93\xcb?\xf8\x00\x00\x00\x00\x00\x00\x91\x05\x00"), id="no event"
        ),
        pytest.param(lambda number: (b"kv", b"1", b""), id="no number"),
        pytest.param(lambda number: (b"kv",), id="one frame"),
    ],
)
async def test_invalid_messages_do_not_end_the_subscription(frames: Callable[[bytes], tuple[bytes, ...]]) -> None:
    followed = Followed()
    async with followed.server() as server, followed.following():
        await server.subscribed()
        await server.publish(stored(1))
        await followed.assert_blocks(1, complete=True)
        await server.send(*frames((1).to_bytes(8, "big")))
        server.lose(stored(2))
        await server.publish(stored(3))
        await until(lambda: {3} <= followed.blocks())
        assert 3 in followed.blocks()


async def test_invalid_events_drop_earlier_blocks() -> None:
    followed = Followed()
    async with followed.server() as server, followed.following():
        await server.subscribed()
        await server.publish(stored(1))
        await followed.assert_blocks(1, complete=True)
        await server.publish({**stored(2), "block_size": 7})
        await followed.assert_blocks(complete=False)
        await server.publish(stored(3))
        await followed.assert_blocks(3, complete=False)


@pytest.mark.parametrize("connected", [True, False], ids=["live", "replayed"])
async def test_a_flood_leaves_time_for_other_work(connected: bool) -> None:
    """The number of batches between two turns of another task is bounded, however the messages arrive.

    A subscription that is connected before the flood receives it live. Otherwise it requests a replay of it.
    """
    followed = Followed()
    turns = 0
    batches_by_turn: Counter[int] = Counter()

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    class Counting(ReportedBlocks):
        def apply(self, endpoint: Endpoint, events: Iterable[Event]) -> bool:
            batches_by_turn[turns] += 1
            return super().apply(endpoint, events)

    followed.held = Counting()
    async with followed.server() as server, followed.following(), running(asyncio.create_task(work())):
        await server.subscribed()
        await server.publish(stored(0))
        if connected:
            await followed.assert_blocks(0, complete=True)
        for number in range(1000):
            await server.publish(stored(number % 19 + 1), removed(number % 19 + 1))
        await server.publish(removed(0), stored(1))
        await followed.assert_blocks(1, complete=True)
    assert batches_by_turn.total() == 1002
    assert max(batches_by_turn.values()) <= subscription.MAX_BATCHES_PER_TURN


async def test_expensive_batches_leave_most_of_the_time_to_other_work() -> None:
    """Each of them takes longer than a turn. The loop is free for four times as long."""
    followed = Followed()
    worked_s, rested = 0.0, []

    class Slow(ReportedBlocks):
        def apply(self, endpoint: Endpoint, events: Iterable[Event]) -> bool:
            nonlocal worked_s
            begun_s = time.perf_counter()
            while time.perf_counter() < begun_s + 2 * subscription.TURN_S:
                pass
            worked_s += time.perf_counter() - begun_s
            rested.append(begun_s)
            return super().apply(endpoint, events)

    followed.held = Slow()
    async with followed.server() as server, followed.following():
        await server.subscribed()
        for number in range(20):
            await server.publish(stored(number % 20), removed(number % 20))
        await server.publish(stored(1))
        await followed.assert_blocks(1, complete=True)
    assert rested[-1] - rested[0] >= 0.8 * (1 + subscription.REST_SHARE) * worked_s * (20 / 21)


async def test_a_message_beyond_the_bound_is_not_received(monkeypatch: pytest.MonkeyPatch) -> None:
    """ZeroMQ does not reconnect after it. The next connection is followed."""
    monkeypatch.setattr(subscription, "MAX_MESSAGE_BYTES", 10_000)
    monkeypatch.setattr(subscription, "RECONNECT_TIMEOUT_MS", 300)
    followed = Followed()
    async with followed.server(replay=False) as server, followed.following(replay=False):
        await server.subscribed()
        await server.publish({**removed(1), "block_hashes": [b"x" * 20_000]})
        await server.subscribed()
        await server.publish(stored(2))
        await followed.assert_blocks(2, complete=False)
