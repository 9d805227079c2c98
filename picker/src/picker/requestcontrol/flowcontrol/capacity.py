"""Decides whether a request may be scheduled now, or is queued."""

from collections.abc import Mapping, Sequence
from math import inf

from picker.endpoints.endpoint import Endpoint
from picker.resources.inference import Criticality
from picker.scheduling.saturation import (
    SHEDDABLE_LIMIT,
    STALE_AFTER_S,
    SaturationLimit,
    has_capacity,
    predicted_wait_s,
)

QUEUEING_LIMITS: Mapping[Criticality, SaturationLimit] = {
    # Without a queue, Sheddable requests are rejected here.
    Criticality.SHEDDABLE: SHEDDABLE_LIMIT,
    # At a server requests wait in order of arrival, and only for that server. A few have to wait there, so that its
    # next step has no gap. At the rate of an A10 two requests wait one second.
    Criticality.STANDARD: SaturationLimit(wait_s=1.0, kv_cache_usage=inf),
    # Twice that, so that a critical request is sent before any other, even if one was just released.
    Criticality.CRITICAL: SaturationLimit(wait_s=2.0, kv_cache_usage=inf),
}
"""Requests of a criticality are queued while no endpoint is below these limits. Less critical ones need more
capacity."""


def has_capacity_for(priority: int, endpoints: Sequence[Endpoint], now_s: float) -> bool:
    """Whether a request of this priority may be scheduled now. True if no endpoint is reachable, because waiting would
    not help."""
    limit = QUEUEING_LIMITS[Criticality.of_priority(priority)]
    reachable = [endpoint for endpoint in endpoints if endpoint.unreachable_since_s is None]
    return not reachable or any(
        has_capacity(limit, endpoint, now_s) and not _outran_scrape(endpoint, now_s) for endpoint in reachable
    )


def saturation(endpoints: Sequence[Endpoint], now_s: float) -> float:
    """How near the endpoints are to where a request of priority 0 is queued, which is 1. Above 1 it is how far they are
    beyond. That of the one with the most room. 1 without a reachable endpoint, as at upstream."""
    wait_s = QUEUEING_LIMITS[Criticality.STANDARD].wait_s
    reachable = [endpoint for endpoint in endpoints if endpoint.unreachable_since_s is None]
    return min(
        (
            max(predicted_wait_s(endpoint, now_s) / wait_s, float(_outran_scrape(endpoint, now_s)))
            for endpoint in reachable
        ),
        default=1.0,
    )


def _outran_scrape(endpoint: Endpoint, now_s: float) -> bool:
    """Whether the endpoint may have a queue that a scrape will show soon."""
    metrics = endpoint.metrics
    return endpoint.outran_scrape and metrics is not None and now_s - metrics.scraped_at_s <= STALE_AFTER_S
