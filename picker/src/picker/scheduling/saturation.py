"""Who is turned away when the servers are full."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from picker.endpoints.endpoint import Endpoint
from picker.resources.inference import Criticality


@dataclass(frozen=True, slots=True)
class SaturationLimit:
    """An endpoint has room for requests of a criticality below both."""

    wait_s: float
    """Predicted."""
    kv_cache_usage: float


SATURATION_LIMITS: Mapping[Criticality, SaturationLimit] = {
    # Where requests wait, one more delays all that matter more, and a server whose cache is this full soon lets them
    # wait: what runs there still grows.
    Criticality.SHEDDABLE: SaturationLimit(wait_s=0.3, kv_cache_usage=0.8),
    # A minute: what is asked by people is asked in vain by then. A benchmark that overloads a fleet waits less.
    Criticality.STANDARD: SaturationLimit(wait_s=60.0, kv_cache_usage=inf),
}
"""Critical is never turned away while an endpoint is ready."""

STALE_AFTER_S = 5.0
"""Metrics older than this say nothing about the queue now, and nobody is turned away on their account."""


def predicted_wait_s(endpoint: Endpoint, now_s: float) -> float:
    """How long a request would wait before the server begins with it: until the prompts ahead are computed, or until as
    many requests have ended as wait for room, whichever is longer. 0 where nothing is known."""
    pace = endpoint.pace.seconds_per_token
    wait_s = endpoint.in_flight.prefill_tokens * pace if pace is not None else 0.0
    metrics = endpoint.metrics
    if metrics is not None and metrics.queue_depth and now_s - metrics.scraped_at_s <= STALE_AFTER_S:
        sent_since = max(0, endpoint.in_flight.requests - metrics.in_flight_at_scrape)
        wait_s = max(wait_s, (metrics.queue_depth + sent_since) * endpoint.drain.interval_s)
    return wait_s


def shed(criticality: Criticality, endpoints: Sequence[Endpoint], now_s: float) -> bool:
    """Whether no endpoint has room for a request of this criticality."""
    room = SATURATION_LIMITS.get(criticality)
    if room is None:
        return False
    for endpoint in endpoints:  # noqa: SIM110 - a generator costs more than the look at the first endpoint
        if has_capacity(room, endpoint, now_s):
            return False
    return True


def has_capacity(room: SaturationLimit, endpoint: Endpoint, now_s: float) -> bool:
    """Whether `endpoint` has this much; one of which nothing is known has."""
    if predicted_wait_s(endpoint, now_s) > room.wait_s:
        return False
    metrics = endpoint.metrics
    if metrics is None or now_s - metrics.scraped_at_s > STALE_AFTER_S:
        return True
    return metrics.kv_cache_usage < room.kv_cache_usage
