"""Maintains one subscription for each endpoint whose server publishes KV events."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.kv_events.reported_blocks import ReportedBlocks
from picker.endpoints.prefix_cache.kv_events.subscription import Subscription

log = structlog.get_logger(__name__)

PORT_LABEL = "inference-gateway/kv-events-port"
REPLAY_PORT_LABEL = "inference-gateway/kv-events-replay-port"
"""Labels of a model server with ports of its own. A value that is not a port means that it does not publish."""


@dataclass(frozen=True, slots=True)
class KvEventPorts:
    """Ports at which servers publish, unless their labels give others."""

    events: int
    replay: int | None
    """None: missed batches cannot be requested."""


class KvEventSubscriber:
    """Follows its endpoints, in the event loop in which it is used."""

    def __init__(self, ports: KvEventPorts, held: ReportedBlocks, emptied: Callable[[Endpoint], None]) -> None:
        """`emptied`: see `Subscription`."""
        self.held = held
        self._ports = ports
        self._emptied = emptied
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}
        self._ranks: dict[tuple[str, str], list[Endpoint | None]] = {}

    def add(self, endpoint: Endpoint) -> None:
        """Follow `endpoint` from now on, if it publishes.

        Each port of a server with several is a rank, numbered in the order in which they are added. vLLM offsets the
        event ports of data-parallel ranks by the rank.
        """
        if endpoint in self._tasks:
            return
        rank = self._rank(endpoint)
        events = _port(endpoint, PORT_LABEL, self._ports.events)
        replay = _port(endpoint, REPLAY_PORT_LABEL, self._ports.replay)
        if events is None:
            return
        host = _host(endpoint)
        subscription = Subscription(
            endpoint,
            self.held,
            f"tcp://{host}:{events + rank}",
            f"tcp://{host}:{replay + rank}" if replay is not None else None,
            self._emptied,
        )
        task = self._tasks[endpoint] = asyncio.create_task(subscription.run())
        task.add_done_callback(lambda done: self._failed(endpoint, done))

    def remove(self, endpoint: Endpoint) -> None:
        """Stop to follow `endpoint`, and drop its reported blocks."""
        ranks = self._ranks.get(_server(endpoint), [])
        if endpoint in ranks:
            ranks[ranks.index(endpoint)] = None
            if not any(ranks):
                del self._ranks[_server(endpoint)]
        task = self._tasks.pop(endpoint, None)
        if task is not None:
            task.cancel()
            self.held.forget(endpoint)

    async def close(self) -> None:
        """Remove all endpoints and close their sockets."""
        tasks = list(self._tasks.values())
        for endpoint in list(self._tasks):
            self.remove(endpoint)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _rank(self, endpoint: Endpoint) -> int:
        ranks = self._ranks.setdefault(_server(endpoint), [])
        if None not in ranks:
            ranks.append(endpoint)
            return len(ranks) - 1
        free = ranks.index(None)
        ranks[free] = endpoint
        return free

    def _failed(self, endpoint: Endpoint, task: asyncio.Task[None]) -> None:
        """Handle an unexpected failure: log it, and treat the endpoint as one that has reported nothing."""
        if task.cancelled() or task.exception() is None:
            return
        log.error("kv_events.failed", endpoint=endpoint.address, exc_info=task.exception())
        self.held.forget(endpoint)


def _server(endpoint: Endpoint) -> tuple[str, str]:
    return endpoint.server, _host(endpoint)


def _host(endpoint: Endpoint) -> str:
    return endpoint.address.rpartition(":")[0]


def _port(endpoint: Endpoint, label: str, default: int | None) -> int | None:
    value = endpoint.labels.get(label)
    if value is None:
        return default
    return int(value) if value.isdecimal() and 0 < int(value) < 65536 else None
