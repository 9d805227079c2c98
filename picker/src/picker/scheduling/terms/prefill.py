"""The predicted time to first token of a request, from the in-flight tracker and the newest scrape."""

from collections.abc import Sequence
from math import ceil

from picker.endpoints.endpoint import Endpoint

MAX_NUM_BATCHED_TOKENS = 2048.0
"""Tokens that a step computes: vLLM's default for an API server."""

RUNNING_STEP = 0.5
"""Share of a step until the one ends that runs when a request arrives: the mean."""

FIRST_TOKEN_STEPS = RUNNING_STEP + 1.0
"""Steps until the first token of a prompt that one step computes: the rest of the one that runs, and its own."""

MIN_PREDICTED_S = 0.001
"""Sum of decayed times from which they are a reference."""


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


def fleet_slowness(endpoints: Sequence[Endpoint], now_s: float) -> float | None:
    """The fleet's mean slowness, the reference of each endpoint's. None if fewer than two endpoints have an estimate.

    Weighted by predicted time, so that one slow response of one endpoint does not make the others look fast.
    """
    learned = [endpoint.speed.decayed_totals(now_s) for endpoint in endpoints if endpoint.speed.slowness]
    if len(learned) < 2:
        return None
    predicted_s = sum(predicted_s for _, predicted_s in learned)
    # Also None if all observations are so old that their weight is negligible.
    return sum(seconds for seconds, _ in learned) / predicted_s if predicted_s > MIN_PREDICTED_S else None


def predicted_first_token_s(endpoint: Endpoint, running: int, uncached_tokens: float) -> float:
    """Predicted time to the first token of a prompt of which `uncached_tokens` are not cached, on a server as fast as
    the pool's mean. `running` requests are there.

    The step that runs ends first. Each later step computes prompts in the order of arrival, as many tokens as it may,
    and a token of each running sequence.
    """
    step = endpoint.step_time.pool_time
    metrics = endpoint.metrics
    context_tokens = metrics.kv_cache_usage * metrics.cache_tokens if metrics is not None else 0.0
    tokens = endpoint.in_flight.prefill_tokens + endpoint.foreign_prefill_tokens + uncached_tokens
    steps = RUNNING_STEP + max(1, ceil(tokens / MAX_NUM_BATCHED_TOKENS))
    decode_s = step.base_s + running * step.per_sequence_s + context_tokens * step.per_context_token_s
    return steps * decode_s + tokens * step.per_prompt_token_s
