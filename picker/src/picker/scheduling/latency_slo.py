"""Latencies that a client requests, and whether an endpoint is predicted to keep them.

The rule is that of upstream's `latency-slo-admitter`: only a request of a priority below 0 is rejected, and only if no
endpoint is predicted to keep the latencies, none is idle, and the KV cache of none is nearly empty."""

from collections.abc import Sequence

import msgspec

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.load.step_time import PRIOR
from picker.scheduling.saturation import STALE_AFTER_S, predicted_wait_s
from picker.scheduling.terms.prefill import predicted_first_token_s, requests_there

COLD_KV_CACHE_USAGE = 0.02
"""Upstream's limit. Little was observed of a server whose KV cache is nearly empty."""


class LatencySlo(msgspec.Struct, frozen=True, gc=False):
    """Service level objectives of one request, in seconds. None: not requested."""

    ttft_s: float | None = None
    """From the pick to the first token."""
    tpot_s: float | None = None
    """Between two tokens after the first."""

    def after(self, waited_s: float) -> "LatencySlo":
        """What is left of it after a wait before the pick."""
        return self if self.ttft_s is None else LatencySlo(self.ttft_s - waited_s, self.tpot_s)


def attainable(
    slo: LatencySlo, prompt_tokens: int, endpoints: Sequence[Endpoint], cached_tokens: Sequence[int], now_s: float
) -> bool:
    """Whether any of `endpoints` may keep `slo`. True if all refuse connections. `cached_tokens`: of the prompt on each
    endpoint."""
    reachable = [
        (endpoint, max(0, prompt_tokens - cached))
        for endpoint, cached in zip(endpoints, cached_tokens, strict=True)
        if endpoint.unreachable_since_s is None
    ]
    return not reachable or any(
        _is_idle_or_unknown(endpoint, now_s)
        or (
            _keeps(slo.ttft_s, predicted_ttft_s(endpoint, uncached, now_s))
            and _keeps(slo.tpot_s, _predicted_tpot_s(endpoint))
        )
        for endpoint, uncached in reachable
    )


def predicted_ttft_s(endpoint: Endpoint, uncached_tokens: float, now_s: float) -> float | None:
    """Seconds to the first token of a prompt that is sent to `endpoint` now. None while its speed is unknown."""
    slowness = endpoint.speed.slowness
    if slowness is None:
        return None
    first_token_s = slowness * predicted_first_token_s(endpoint, requests_there(endpoint), uncached_tokens)
    prefill_s = slowness * endpoint.step_time.pool_time.per_prompt_token_s * uncached_tokens
    return max(first_token_s, predicted_wait_s(endpoint, now_s) + prefill_s)


def _predicted_tpot_s(endpoint: Endpoint) -> float | None:
    """The time of a step that decodes the present sequences and one more. None while no step is observed, and while the
    endpoint's speed is unknown."""
    step, metrics, slowness = endpoint.step_time.pool_time, endpoint.metrics, endpoint.speed.slowness
    if step is PRIOR or metrics is None or slowness is None:
        return None
    context_tokens = metrics.kv_cache_usage * metrics.cache_tokens
    sequences = min(requests_there(endpoint), metrics.running) + 1
    return slowness * (step.base_s + step.per_sequence_s * sequences + step.per_context_token_s * context_tokens)


def _is_idle_or_unknown(endpoint: Endpoint, now_s: float) -> bool:
    metrics = endpoint.metrics
    if metrics is None or now_s - metrics.scraped_at_s > STALE_AFTER_S:
        return True
    return requests_there(endpoint) == 0 or metrics.kv_cache_usage < COLD_KV_CACHE_USAGE


def _keeps(requested_s: float | None, predicted_s: float | None) -> bool:
    return requested_s is None or predicted_s is None or predicted_s <= requested_s
