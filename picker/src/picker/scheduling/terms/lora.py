"""LoRA adapters: a server runs a few at once. Requests for others wait until one of those is unused."""

from collections.abc import Sequence

from picker.endpoints.endpoint import Endpoint, ServerMetrics

LOAD_TOKENS = 500.0
"""Cost of loading an adapter on a server with a free slot, for each adapter there: the work, and a slot less for the
next adapter. Spreads the adapters over the servers."""

FULL_TOKENS = 20_000.0
"""Cost on a server without a free slot: the wait, of seconds, until the last request of another adapter has ended."""

SENT_ADAPTER_TTL_S = 600.0
"""How long an adapter counts as loaded after this picker's last request for it. Servers report only adapters with
requests in flight, and keep the most recently used ones loaded."""

MAX_SENT_ADAPTERS = 64
"""Sent adapters kept per endpoint. Never more than the endpoint runs at once."""


class _EndpointAdapters:
    """The adapters of one endpoint."""

    __slots__ = ("metrics", "names", "observed_s", "sent")

    def __init__(self) -> None:
        self.metrics: ServerMetrics | None = None
        self.names: frozenset[str] = frozenset()
        """Named by its newest scrape."""
        self.sent: dict[str, float] = {}
        """Adapters and the time of this picker's last request for each, least recent first."""
        self.observed_s = 0.0


class LoraAffinity:
    """Cost of a request's LoRA adapter on each endpoint.

    A model counts as an adapter if a newest scrape names it, or if it did when this picker sent it. Any other name may
    be the base model and does not change the cost.
    """

    def __init__(self) -> None:
        self._adapters: frozenset[str] = frozenset()
        self._by_endpoint: dict[Endpoint, _EndpointAdapters] = {}
        self._pruned_s = 0.0

    @property
    def known_adapters(self) -> frozenset[str]:
        """Adapters of the observed endpoints: named by a newest scrape, or sent within `SENT_ADAPTER_TTL_S`."""
        return self._adapters

    def observe(self, endpoints: Sequence[Endpoint], now_s: float = 0.0) -> None:
        """Read adapter names from the newest scrapes, and which adapters are in use where."""
        changed = False
        for endpoint in endpoints:
            metrics = endpoint.metrics
            if metrics is None or not metrics.max_loras:
                continue
            known = self._by_endpoint.get(endpoint)
            if known is None:
                known = self._by_endpoint[endpoint] = _EndpointAdapters()
            known.observed_s = now_s
            if known.metrics is not metrics:
                known.metrics = metrics
                names = metrics.active_loras | metrics.waiting_loras
                if names != known.names:
                    known.names = names
                    changed = True
            for model in self._adapters.intersection(endpoint.in_flight.models):
                changed |= model not in known.sent
                known.sent.pop(model, None)
                known.sent[model] = now_s
        if now_s - self._pruned_s > 1.0:
            self._pruned_s = now_s
            self._prune(now_s)
            changed = True
        if changed:
            self._adapters = frozenset().union(
                *[names for known in self._by_endpoint.values() for names in (known.names, known.sent)]
            )

    def _prune(self, now_s: float) -> None:
        for endpoint, known in list(self._by_endpoint.items()):
            if now_s - known.observed_s > SENT_ADAPTER_TTL_S:
                # It has left the pool.
                del self._by_endpoint[endpoint]
                continue
            most = min(MAX_SENT_ADAPTERS, known.metrics.max_loras if known.metrics is not None else 0)
            surplus = len(known.sent) - most
            for number, (model, sent_s) in enumerate(list(known.sent.items())):
                if number < surplus or now_s - sent_s > SENT_ADAPTER_TTL_S:
                    del known.sent[model]

    def tokens(self, model: str | None, endpoints: Sequence[Endpoint]) -> Sequence[float] | None:
        """Cost of `model`'s adapter on each endpoint, in prompt tokens. None: no cost anywhere."""
        if model not in self._adapters:
            return None
        return [self._tokens(model, endpoint) for endpoint in endpoints]

    def _tokens(self, model: str, endpoint: Endpoint) -> float:
        metrics = endpoint.metrics
        if metrics is None or not metrics.max_loras:
            return 0.0
        if model in metrics.active_loras:
            return 0.0
        # Requests sent since the scrape are there, although the scrape does not show them.
        own = self._adapters.intersection(endpoint.in_flight.models)
        there = metrics.active_loras | metrics.waiting_loras | own
        if len(there - {model}) >= metrics.max_loras:
            return FULL_TOKENS
        if model in there:
            return 0.0
        known = self._by_endpoint.get(endpoint)
        loaded = known.sent if known is not None else {}
        return 0.0 if model in loaded else LOAD_TOKENS * (1 + len(there | loaded.keys()))
