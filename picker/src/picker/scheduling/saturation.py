"""Decides which requests are rejected when the servers are full."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from picker.endpoints.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class SaturationLimit:
    """An endpoint has capacity for requests of a priority while it is below both limits."""

    wait_s: float
    """Predicted wait."""
    kv_cache_usage: float
    """0 to 1."""


SHEDDABLE_LIMIT = SaturationLimit(wait_s=0.3, kv_cache_usage=0.8)
"""For priorities below 0. With a queue, one more request delays all the more critical ones. A cache this full soon
causes a queue, because the running requests still grow."""

STANDARD_LIMIT = SaturationLimit(wait_s=60.0, kv_cache_usage=inf)
"""For priority 0. Judgement: an interactive client has given up after one minute. A benchmark that overloads a fleet
waits less."""

STALE_AFTER_S = 5.0
"""Metrics older than this do not show the present queue. No request is rejected because of them."""


def predicted_wait_s(endpoint: Endpoint, now_s: float) -> float:
    """How long a request would wait until the server starts its prefill. 0 if nothing is known.

    The longer of two waits: until the prompts ahead are computed, and until as many requests have ended as are queued.
    """
    slowness = endpoint.speed.slowness
    token_s = endpoint.step_time.pool_time.per_prompt_token_s
    wait_s = endpoint.in_flight.prefill_tokens * token_s * slowness if slowness is not None else 0.0
    metrics = endpoint.metrics
    if metrics is not None and metrics.queue_depth and now_s - metrics.scraped_at_s <= STALE_AFTER_S:
        sent_since = max(0, endpoint.in_flight.requests - metrics.in_flight_at_scrape)
        wait_s = max(wait_s, (metrics.queue_depth + sent_since) * endpoint.drain.interval_s)
    return wait_s


def shed(priority: int, endpoints: Sequence[Endpoint], now_s: float) -> bool:
    """Whether no endpoint has capacity for a request of this priority. Above 0 it is never rejected."""
    if priority > 0:
        return False
    limit = STANDARD_LIMIT if priority == 0 else SHEDDABLE_LIMIT
    for endpoint in endpoints:  # noqa: SIM110 - a generator costs more than the check of the first endpoint
        if has_capacity(limit, endpoint, now_s):
            return False
    return True


def has_capacity(limit: SaturationLimit, endpoint: Endpoint, now_s: float) -> bool:
    """Whether `endpoint` is below `limit`. An endpoint of which nothing is known is."""
    if predicted_wait_s(endpoint, now_s) > limit.wait_s:
        return False
    metrics = endpoint.metrics
    if metrics is None or now_s - metrics.scraped_at_s > STALE_AFTER_S:
        return True
    return metrics.kv_cache_usage < limit.kv_cache_usage
