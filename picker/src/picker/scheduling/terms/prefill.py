"""Work ahead of a request's first token on an endpoint, from the in-flight tracker and the newest scrape.

The unit of work is the prompt token: the time in which a server computes one token of a prompt. It is 0.2 ms on the
A10 and the L20 of the simulator, for which the constants are. The cost has learned ratios (`terms.step_time`).
"""

from collections.abc import Sequence

from picker.endpoints.endpoint import Endpoint

STEP_TOKENS = 300.0
"""Work of a first token on an idle server: the rest of the step that runs when the request arrives, and the fixed part
of its own step."""

SEQUENCE_TOKENS = 8.0
"""Additional work per running sequence: each slows every step and takes part of the token budget."""


def requests_there(endpoint: Endpoint) -> int:
    """Requests on the server: this picker's, and those from elsewhere.

    The in-flight tracker counts a request at once, so requests between two scrapes do not all go to one idle endpoint.
    """
    metrics = endpoint.metrics
    return endpoint.in_flight.requests + (metrics.foreign_requests if metrics is not None else 0)


def requests_at(endpoints: Sequence[Endpoint]) -> list[int]:
    """`requests_there` of each endpoint."""
    return [
        endpoint.in_flight.requests + (metrics.foreign_requests if (metrics := endpoint.metrics) is not None else 0)
        for endpoint in endpoints
    ]


def fleet_seconds_per_token(endpoints: Sequence[Endpoint], now_s: float) -> float | None:
    """The fleet's mean seconds per token of work, the reference of slowness. None if fewer than two endpoints have an
    estimate.

    Weighted by work, so that one slow response of one endpoint does not make the others look fast.
    """
    learned = [endpoint.pace.decayed_totals(now_s) for endpoint in endpoints if endpoint.pace.seconds_per_token]
    if len(learned) < 2:
        return None
    tokens = sum(tokens for _, tokens in learned)
    # Also None if all observations are so old that their weight is negligible.
    return sum(seconds for seconds, _ in learned) / tokens if tokens > 1.0 else None


def work_ahead(endpoint: Endpoint, running: int, uncached_tokens: float) -> float:
    """Work until the first token of a prompt of which `uncached_tokens` are not cached, in prompt tokens.

    `running` requests are there. Measured: the constants are fitted to the simulator's first tokens.
    """
    return (
        STEP_TOKENS
        + SEQUENCE_TOKENS * running
        + endpoint.in_flight.prefill_tokens
        + endpoint.foreign_prefill_tokens
        + uncached_tokens
    )
