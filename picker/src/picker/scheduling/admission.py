"""Who is turned away when the servers are full."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from picker.endpoints.endpoint import Endpoint
from picker.resources.inference import Criticality


@dataclass(frozen=True, slots=True)
class Saturation:
    """An endpoint at or over either bound has no room for requests of a criticality."""

    queue_depth: int
    kv_cache_usage: float


DEFAULT_BOUNDS: Mapping[Criticality, Saturation] = {
    # Where a server queues, one more request delays all that matter more. The bounds are those that
    # operators know from the Gateway API inference extension (queue 5, KV cache 0.8).
    Criticality.SHEDDABLE: Saturation(queue_depth=5, kv_cache_usage=0.8),
    # A queue of 128 is minutes of waiting on the cards this runs on; a full KV cache alone is normal work.
    Criticality.STANDARD: Saturation(queue_depth=128, kv_cache_usage=float("inf")),
}
"""Critical has no bound: it is never turned away while an endpoint is ready."""

STALE_AFTER_S = 5.0
"""Metrics older than this say nothing about the load now, and nobody is turned away on their account."""


def saturated(
    criticality: Criticality,
    endpoints: Sequence[Endpoint],
    now_s: float,
    bounds: Mapping[Criticality, Saturation] = DEFAULT_BOUNDS,
) -> bool:
    """Whether no endpoint has room for a request of this criticality. One whose load is unknown counts as having
    room."""
    bound = bounds.get(criticality)
    if bound is None:
        return False
    for endpoint in endpoints:
        metrics = endpoint.metrics
        if metrics is None or now_s - metrics.scraped_at_s > STALE_AFTER_S:
            return False
        if metrics.queue_depth < bound.queue_depth and metrics.kv_cache_usage < bound.kv_cache_usage:
            return False
    return True
