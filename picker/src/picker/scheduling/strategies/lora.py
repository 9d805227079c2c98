"""LoRA adapters: a server runs a few at once, and lets requests for others wait until one of those is done."""

from collections.abc import Sequence

from picker.endpoints.endpoint import Endpoint

LOAD_TOKENS = 500.0
"""What it costs to bring an adapter to a server with room for it, for every adapter there: the work of loading, and a
place that the next one will not have. Spreads the adapters over the servers."""

FULL_TOKENS = 20_000.0
"""What it costs where there is no room: the wait until the last request of another adapter is done, seconds."""


class LoraAffinity:
    """Knows which names are adapters' from what the servers said so far; what it has never heard of may be the base
    model, and is no reason to prefer a server."""

    def __init__(self) -> None:
        self._adapters: set[str] = set()

    def look(self, endpoints: Sequence[Endpoint]) -> None:
        """Learn names from the newest scrapes."""
        for endpoint in endpoints:
            metrics = endpoint.metrics
            if metrics is not None and metrics.max_loras:
                self._adapters |= metrics.active_loras
                self._adapters |= metrics.waiting_loras

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
        return 0.0 if model in there else LOAD_TOKENS * (1 + len(there))
