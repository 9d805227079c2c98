"""How full an endpoint is, from the ledger and the newest scrape together.

Work is told in prompt tokens: whatever takes a server as long as computing one token of a prompt. On the cards that the
simulator knows that is 0.2 ms; the ratios between the kinds of work differ little from card to card."""

from collections.abc import Sequence

from picker.endpoints.endpoint import Endpoint

STEP_TOKENS = 300.0
"""What a first token takes on an idle server: the step under way when the request comes, and the fixed part of its
own."""

SEQUENCE_TOKENS = 8.0
"""What a running sequence adds to that: it slows every step, and takes budget from the prompts."""

NEARLY_FULL = 0.9
"""KV cache usage from which a server soon queues or preempts."""

HALF_FULL = 0.5
"""KV cache usage from which a server is avoided, the more the fuller it is: what runs there will grow, and a full cache
means queueing and preemption."""


FAILING = 10.0
"""A server whose answers are all errors has answered everything, and looks idle: it is this many times worse."""


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


def pressure(endpoint: Endpoint) -> float:
    """A factor, 1 and up: how much worse a server is than its load says, because it queues, its KV cache runs full, or
    its answers are errors."""
    metrics = endpoint.metrics
    factor = 1.0 + FAILING * endpoint.failing
    if metrics is None:
        return factor
    if metrics.kv_cache_usage > HALF_FULL:
        excess = (metrics.kv_cache_usage - HALF_FULL) / (1.0 - HALF_FULL)
        # Twice as bad at three quarters, five times at the brim.
        factor += 4.0 * excess * excess
    if metrics.queue_depth:
        # A queue as long as the batch means waiting for a whole generation of requests to leave.
        factor += metrics.queue_depth / max(1, metrics.running)
    return factor


def slowness(endpoints: Sequence[Endpoint]) -> Sequence[float] | None:
    """How many times as slow as the others each endpoint is; None while nobody can tell."""
    known = [pace for endpoint in endpoints if (pace := endpoint.pace.seconds_per_token) is not None]
    if len(known) < 2:
        return None
    fleet = sum(known) / len(known)
    return [endpoint.pace.against(fleet) for endpoint in endpoints]


def work_ahead(endpoint: Endpoint, running: int, fresh_tokens: float) -> float:
    """Work until the first token of a prompt of which `fresh_tokens` are not cached, in prompt tokens; `running`
    requests are there. The constants are fitted to the simulator's first tokens."""
    return STEP_TOKENS + SEQUENCE_TOKENS * running + endpoint.in_flight.prefill_tokens + fresh_tokens


def queues(endpoint: Endpoint) -> bool:
    """Whether the server waits for room, for KV cache or adapters, or soon will: then the time to a first token tells
    of that, and not of the work ahead."""
    metrics = endpoint.metrics
    return metrics is not None and (
        metrics.queue_depth > 0 or metrics.kv_cache_usage > NEARLY_FULL or bool(metrics.waiting_loras)
    )
