"""The JSON of `/pools`: the current pools with their counts. `picker top` reads it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import msgspec

from picker.endpoints.endpoint import Endpoint
from picker.observability.admin import EndpointState, endpoint_state
from picker.observability.request_counts import CounterRegistry, by_pool
from picker.requestcontrol.served_pool import ServedPool
from picker.resources.inference import PoolSettings


class PoolState(msgspec.Struct, frozen=True):
    """A pool as `/pools` shows it. Counts are since the picker's start."""

    pool: str
    strategy: str
    decisions: int
    """Requests that got an endpoint."""
    rejected: int
    running: int
    """Requests that got an endpoint and have not ended."""
    prompt_tokens: int
    """Of the decisions, estimated."""
    cached_tokens: int
    """Those of `prompt_tokens` that were expected in the prefix cache of the picked endpoint."""
    decision_s: float
    """The sum over all decisions."""
    prefix_blocks: int
    """Distinct blocks that are expected in the prefix cache of any endpoint."""
    settings: PoolSettings
    """Those of the pool that are in force in place of the picker's."""
    endpoints: Sequence[EndpointState]


def pool_states(pools: Iterable[ServedPool], registry: CounterRegistry, now_s: float) -> Iterator[PoolState]:
    """Yields the state of each pool. `now_s` is on the clock of the scrapes."""
    counted = by_pool(registry)
    for served in list(pools):
        label = served.label
        entries = counted.get(label, [])
        yield PoolState(
            pool=label,
            strategy=served.scheduler.strategy,
            decisions=sum(counters.picked for counters in entries),
            rejected=sum(counters.rejections for counters in entries),
            running=sum(counters.running for counters in entries),
            prompt_tokens=int(sum(counters.prompt_tokens.sum for counters in entries)),
            cached_tokens=sum(counters.cached_tokens for counters in entries),
            decision_s=sum(counters.decision_seconds.sum for counters in entries),
            prefix_blocks=len(served.prefixes),
            settings=served.pool.settings,
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
            return [self._state(endpoint) for endpoint in self._endpoints[index]]
        return self._state(self._endpoints[index])

    def _state(self, endpoint: Endpoint) -> EndpointState:
        return endpoint_state(self._label, endpoint, self._now_s, self._prefixes)
