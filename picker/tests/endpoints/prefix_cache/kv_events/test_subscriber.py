"""Which endpoints are followed, and at which ports."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from event_server import EventServer, free_port, stored, until
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.kv_events import subscriber
from picker.endpoints.prefix_cache.kv_events.reported_blocks import ReportedBlocks
from picker.endpoints.prefix_cache.kv_events.subscriber import (
    PORT_LABEL,
    REPLAY_PORT_LABEL,
    KvEventPorts,
    KvEventSubscriber,
)


def server(name: str = "qwen-0", port: int = 8000, labels: Mapping[str, str] | None = None) -> Endpoint:
    return Endpoint(f"127.0.0.1:{port}", name, labels or {})


class SeenSubscription:
    """A subscription that does not connect."""

    def __init__(self, endpoint: Endpoint, held: ReportedBlocks, events: str, replay: str | None, *_: object) -> None:
        addresses.append((endpoint, events, replay))

    async def run(self) -> None:
        await asyncio.Event().wait()


addresses: list[tuple[Endpoint, str, str | None]] = []


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Endpoint, str, str | None]]:
    addresses.clear()
    monkeypatch.setattr(subscriber, "Subscription", SeenSubscription)
    return addresses


@asynccontextmanager
async def following(replay: int | None = None) -> AsyncIterator[KvEventSubscriber]:
    created = KvEventSubscriber(KvEventPorts(5557, replay), ReportedBlocks(), lambda _: None)
    try:
        yield created
    finally:
        await created.close()


async def test_servers_publish_at_the_port_of_the_setting(seen: list[object]) -> None:
    one, other = server(), server("qwen-1", 8001)
    async with following(replay=6000) as created:
        created.add(one)
        created.add(other)
        created.add(one)
    assert seen == [
        (one, "tcp://127.0.0.1:5557", "tcp://127.0.0.1:6000"),
        (other, "tcp://127.0.0.1:5557", "tcp://127.0.0.1:6000"),
    ]


async def test_labels_override_a_servers_ports(seen: list[object]) -> None:
    elsewhere = server("a", labels={PORT_LABEL: "7000", REPLAY_PORT_LABEL: "7001"})
    without_replay = server("b", labels={REPLAY_PORT_LABEL: "none"})
    silent = server("c", labels={PORT_LABEL: "none"})
    async with following(replay=6000) as created:
        for item in (elsewhere, without_replay, silent):
            created.add(item)
        created.remove(silent)
    assert seen == [
        (elsewhere, "tcp://127.0.0.1:7000", "tcp://127.0.0.1:7001"),
        (without_replay, "tcp://127.0.0.1:5557", None),
    ]


async def test_each_port_of_a_server_is_a_rank_with_event_ports_of_its_own(seen: list[object]) -> None:
    ranks = [server(port=8000 + number) for number in range(3)]
    async with following(replay=6000) as created:
        for item in ranks:
            created.add(item)
        created.remove(ranks[1])
        created.add(back := server(port=8001))
    assert [(where, events) for where, events, _ in addresses] == [
        (ranks[0], "tcp://127.0.0.1:5557"),
        (ranks[1], "tcp://127.0.0.1:5558"),
        (ranks[2], "tcp://127.0.0.1:5559"),
        (back, "tcp://127.0.0.1:5558"),
    ]


async def test_ipv6_addresses_keep_their_brackets(seen: list[object]) -> None:
    where = Endpoint("[fd00::7]:8000", "qwen-0")
    async with following() as created:
        created.add(where)
    assert seen == [(where, "tcp://[fd00::7]:5557", None)]


async def test_an_endpoint_that_leaves_is_removed_and_a_new_one_is_followed() -> None:
    port, held = free_port(), ReportedBlocks()
    created = KvEventSubscriber(KvEventPorts(port, None), held, lambda _: None)
    where, back = server(), server()
    async with EventServer(port, None) as publishing:
        created.add(where)
        await publishing.subscribed()
        await publishing.publish(stored(1))
        await until(lambda: held.stored_blocks(where) == 1)
        created.remove(where)
        assert (len(held), held.stored_blocks(where)) == (0, None)
        created.add(back)
        await publishing.subscribed()
        await publishing.publish(stored(2))
        await until(lambda: held.stored_blocks(back) == 1)
        await created.close()
        assert len(held) == 0


async def test_after_an_unexpected_failure_the_estimate_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failing(SeenSubscription):
        async def run(self) -> None:
            raise RuntimeError("unexpected")

    monkeypatch.setattr(subscriber, "Subscription", Failing)
    held, where = ReportedBlocks(), server()
    created = KvEventSubscriber(KvEventPorts(5557, None), held, lambda _: None)
    held.follow(where)
    created.add(where)
    await until(lambda: held.stored_blocks(where) is None)
    await created.close()
    assert held.stored_blocks(where) is None
