"""LoRA adapters: a server runs a few at once, and lets requests for others wait until one of those is done."""

from collections.abc import Sequence

from picker.endpoints.endpoint import Endpoint, ServerMetrics

LOAD_TOKENS = 500.0
"""What it costs to bring an adapter to a server with room for it, for every adapter there: the work of loading, and a
place that the next one will not have. Spreads the adapters over the servers."""

FULL_TOKENS = 20_000.0
"""What it costs where there is no room: the wait until the last request of another adapter is done, seconds."""

REMEMBERED_S = 600.0
"""How long an adapter counts as loaded where this picker has sent a request for it. Servers name adapters with requests
in flight only, and keep the most recently used ones loaded."""

MAX_REMEMBERED = 64
"""Adapters remembered of one endpoint, and never more than it runs at once."""

FORGOTTEN_S = 60.0
"""What is known of an endpoint that was not looked at for this long is dropped: it has left the pool."""


class _Known:
    """What is known of one endpoint's adapters."""

    __slots__ = ("looked_s", "metrics", "names", "sent")

    def __init__(self) -> None:
        self.metrics: ServerMetrics | None = None
        self.names: frozenset[str] = frozenset()
        """In its newest scrape."""
        self.sent: dict[str, float] = {}
        """Adapters and when this picker last had a request for them there; the least recent first."""
        self.looked_s = 0.0


class LoraAffinity:
    """Knows which names are adapters' from the servers' newest scrapes and from what was sent to them lately; what it
    has never heard of may be the base model, and is no reason to prefer a server."""

    def __init__(self) -> None:
        self._adapters: frozenset[str] = frozenset()
        self._known: dict[Endpoint, _Known] = {}
        self._pruned_s = 0.0

    @property
    def known_adapters(self) -> frozenset[str]:
        """Of the endpoints last looked at: named by a newest scrape, or sent lately."""
        return self._adapters

    def observe(self, endpoints: Sequence[Endpoint], now_s: float = 0.0) -> None:
        """Learn names from the newest scrapes, and which adapters are in use where."""
        changed = False
        for endpoint in endpoints:
            metrics = endpoint.metrics
            if metrics is None or not metrics.max_loras:
                continue
            known = self._known.get(endpoint)
            if known is None:
                known = self._known[endpoint] = _Known()
            known.looked_s = now_s
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
                *[name for each in self._known.values() for name in (each.names, each.sent)]
            )

    def _prune(self, now_s: float) -> None:
        for endpoint, known in list(self._known.items()):
            if now_s - known.looked_s > FORGOTTEN_S:
                del self._known[endpoint]
                continue
            most = min(MAX_REMEMBERED, known.metrics.max_loras if known.metrics is not None else 0)
            surplus = len(known.sent) - most
            for number, (model, sent_s) in enumerate(list(known.sent.items())):
                if number < surplus or now_s - sent_s > REMEMBERED_S:
                    del known.sent[model]

    def tokens(self, model: str | None, endpoints: Sequence[Endpoint]) -> Sequence[float] | None:
        """What `model` would cost each endpoint for its adapter's sake, in prompt tokens; None: nothing anywhere."""
        if model not in self._adapters:
            return None
        return [self._tokens(model, endpoint) for endpoint in endpoints]

    def _tokens(self, model: str, endpoint: Endpoint) -> float:
        metrics = endpoint.metrics
        if metrics is None or not metrics.max_loras:
            return 0.0
        if model in metrics.active_loras:
            return 0.0
        # What was sent since the scrape is there too, whatever the scrape says.
        mine = self._adapters.intersection(endpoint.in_flight.models)
        there = metrics.active_loras | metrics.waiting_loras | mine
        if len(there - {model}) >= metrics.max_loras:
            return FULL_TOKENS
        if model in there:
            return 0.0
        known = self._known.get(endpoint)
        loaded = known.sent if known is not None else {}
        return 0.0 if model in loaded else LOAD_TOKENS * (1 + len(there | loaded.keys()))
