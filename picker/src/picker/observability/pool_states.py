"""Pools as they are now and what was counted for them, for those who watch a picker: `picker top`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import msgspec

from picker.endpoints.endpoint import Endpoint
from picker.observability.admin import EndpointState, endpoint_state
from picker.observability.observer import pool_label
from picker.observability.request_counts import CounterRegistry, by_pool
from picker.requestcontrol.director import ServedPool


class PoolState(msgspec.Struct, frozen=True):
    """A pool as `/pools` shows it. Counts are since the picker's start."""

    pool: str
    strategy: str
    decisions: int
    """Requests that got an endpoint."""
    turned_away: int
    running: int
    """Of the decisions, those that have not ended."""
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt tokens, those thought to be cached where they were sent."""
    decision_s: float
    """Spent deciding, all decisions together."""
    prefix_blocks: int
    """Distinct blocks that some endpoint is thought to hold."""
    endpoints: Sequence[EndpointState]


def pool_states(pools: Iterable[ServedPool], counters: CounterRegistry, now_s: float) -> Iterator[PoolState]:
    """Made one by one, as they are asked for. `now_s` is on the clock of the scrapes."""
    counted = by_pool(counters)
    for served in list(pools):
        label = pool_label(served.pool.name)
        mine = counted.get(label, [])
        yield PoolState(
            pool=label,
            strategy=served.scheduler.strategy,
            decisions=sum(tally.picked for tally in mine),
            turned_away=sum(tally.refused for tally in mine),
            running=sum(tally.running for tally in mine),
            prompt_tokens=int(sum(tally.prompt_tokens.sum for tally in mine)),
            cached_tokens=sum(tally.cached_tokens for tally in mine),
            decision_s=sum(tally.decision_seconds.sum for tally in mine),
            prefix_blocks=len(served.prefixes),
            endpoints=_Endpoints(label, served, now_s),
        )


class _Endpoints(Sequence[EndpointState]):
    """The states of a pool's endpoints, each made when it is read."""

    def __init__(self, label: str, served: ServedPool, now_s: float) -> None:
        self._label = label
        self._endpoints = tuple(served.endpoints)
        self._prefixes = served.prefixes
        self._now_s = now_s

    def __len__(self) -> int:
        return len(self._endpoints)

    @overload
    def __getitem__(self, index: int) -> EndpointState: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[EndpointState]: ...

    def __getitem__(self, index: int | slice) -> EndpointState | Sequence[EndpointState]:
        if isinstance(index, slice):
            return [self._state(each) for each in self._endpoints[index]]
        return self._state(self._endpoints[index])

    def _state(self, endpoint: Endpoint) -> EndpointState:
        return endpoint_state(self._label, endpoint, self._now_s, self._prefixes)
