"""How full an endpoint is, from the ledger and the newest scrape together."""

from picker.endpoints.endpoint import Endpoint

NEARLY_FULL = 0.9
"""KV cache usage from which a vLLM server soon queues or preempts."""


def requests_there(endpoint: Endpoint) -> int:
    """Requests on the server: ours, and those that came past this picker (another replica of it, the plain port).

    The scrape counted ours of its time too, so only what it saw beyond them is added. What this picker has sent since
    is in the ledger at once: between two scrapes nobody herds onto the endpoint that looked idle.
    """
    metrics = endpoint.metrics
    mine = endpoint.in_flight.requests
    if metrics is None:
        return mine
    return mine + max(0, metrics.running + metrics.queue_depth - metrics.in_flight_then)


def tokens_there(endpoint: Endpoint, typical_tokens: float) -> float:
    """Tokens that the server's requests hold in its KV cache when they end; `typical_tokens` for each that is not
    ours."""
    ours = endpoint.in_flight
    others = requests_there(endpoint) - ours.requests
    return ours.prefill_tokens + ours.decode_tokens + others * typical_tokens


def pressure(endpoint: Endpoint) -> float:
    """A factor, 1 and up: how much worse a server is than its load says, because it queues or its KV cache runs
    full."""
    metrics = endpoint.metrics
    if metrics is None:
        return 1.0
    factor = 1.0 + max(0.0, metrics.kv_cache_usage - NEARLY_FULL) / (1.0 - NEARLY_FULL)
    if metrics.queue_depth:
        # A queue as long as the batch means waiting for a whole generation of requests to leave.
        factor += metrics.queue_depth / max(1, metrics.running)
    return factor
