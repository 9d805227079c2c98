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

FAILING = 10.0
"""A server whose answers are all errors has answered everything, and looks idle: it is this many times worse."""


def requests_there(endpoint: Endpoint) -> int:
    """Requests on the server: ours, and those that came past this picker. What this picker has sent since the scrape is
    in the ledger at once: between two scrapes nobody herds onto the endpoint that looked idle."""
    metrics = endpoint.metrics
    return endpoint.in_flight.requests + (metrics.foreign_requests if metrics is not None else 0)


def requests_at(endpoints: Sequence[Endpoint]) -> list[int]:
    """`requests_there` of each."""
    return [
        endpoint.in_flight.requests + (metrics.foreign_requests if (metrics := endpoint.metrics) is not None else 0)
        for endpoint in endpoints
    ]


def fleet_pace(endpoints: Sequence[Endpoint], now_s: float) -> float | None:
    """What an endpoint's own pace is told against, in seconds a token; None while fewer than two have one. All work
    that was seen counts alike, so that one slow answer of one endpoint does not make the others look fast."""
    learned = [endpoint.pace.learned(now_s) for endpoint in endpoints if endpoint.pace.seconds_per_token]
    if len(learned) < 2:
        return None
    tokens = sum(tokens for _, tokens in learned)
    # None, too, when all was learned so long ago that nothing of it counts.
    return sum(seconds for seconds, _ in learned) / tokens if tokens > 1.0 else None


def work_ahead(endpoint: Endpoint, running: int, uncached_tokens: float) -> float:
    """Work until the first token of a prompt of which `uncached_tokens` are not cached, in prompt tokens; `running`
    requests are there. The constants are fitted to the simulator's first tokens."""
    return (
        STEP_TOKENS
        + SEQUENCE_TOKENS * running
        + endpoint.in_flight.prefill_tokens
        + endpoint.foreign_prefill_tokens
        + uncached_tokens
    )
