"""Counts requests for `/metrics` and `/pools`."""

from collections.abc import Iterable

from picker.observability.request_counts import CounterRegistry, RequestCounters
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.request_observer import RejectedRequest, RequestObserver
from picker.requestcontrol.served_pool import ServedPool

_Key = tuple[str, str | None, str | None]
"""A pool's key, the model's name as the client gave it, and the servers' name where it differs."""


class RequestMetrics(RequestObserver):
    """Counts requests by pool, strategy, model and target model."""

    def __init__(self) -> None:
        self.counters = CounterRegistry()
        self._known: dict[_Key, tuple[ServedPool, RequestCounters]] = {}
        """The counters by key, while the pool does not change."""
        self._running: dict[InFlightRequest, RequestCounters] = {}
        """The counters of each request that has not ended. Its pool may change before its end."""

    def scheduled(self, request: InFlightRequest, pool: ServedPool) -> None:
        known = self._known.get((pool.key, request.requested_model, request.served_model))
        counters = known[1] if known is not None and known[0] is pool else self._counters(request, pool)
        self._running[request] = counters
        counters.scheduled(request)

    def rejected(self, request: RejectedRequest, pool: ServedPool | None) -> None:
        model = request.requested_model
        declared = pool is not None and _declared(pool, model)
        counters = self.counters.of(request.pool, request.strategy, model, model, declared=declared)
        self.counters.rejected(request, counters)

    def ended(self, request: InFlightRequest) -> None:
        self._running.pop(request).ended(request)

    def keep(self, pools: Iterable[ServedPool]) -> None:
        """Removes pools that are not in `pools`. Their counts are kept by model; see `CounterRegistry.keep`."""
        current = {pool.key: pool for pool in pools}
        self._known = {key: known for key, known in self._known.items() if current.get(key[0]) is known[0]}
        self.counters.keep({pool.label for pool in current.values()})

    def _counters(self, request: InFlightRequest, pool: ServedPool) -> RequestCounters:
        model, served_model = request.requested_model, request.served_model
        declared = _declared(pool, model)
        counters = self.counters.of(pool.label, pool.strategy, model, served_model or model, declared=declared)
        if counters.model == (model or ""):
            # Models beyond the limit of labels are not kept, because their number is not limited.
            self._known[pool.key, model, served_model] = pool, counters
        return counters


def _declared(pool: ServedPool, model: str | None) -> bool:
    return model is not None and pool.targets(model) is not None
