"""KV cache demand of requests, and the pressure of a full KV cache."""

from collections.abc import Sequence
from math import fsum, inf

from msgspec.structs import replace

from picker.endpoints.endpoint import Endpoint, ServerMetrics

HALF_LIFE_S = 5.0
"""Age at which an observation counts half. Several scrapes long, so that single requests do not decide the mean.
Shorter than the time in which a load changes."""

MIN_EXPECTED_SHARE = 0.6
"""A server's expected usage is at least this share of the fleet's mean demand times its requests. The usage that it
reports is nearly always higher (batches of thirty differ by a tenth), and then counts. It is lower in a burst, whose
requests are all young. Measured: 0.75 and 1.0 lower the goodput of a random load."""

PRESSURE_STARTS_AT = 0.25
"""KV cache usage up to which a server has room for any request. Above it the cost rises with the usage: running
requests will grow, and a full cache means queueing and preemption."""


class KvDemand:
    """Mean tokens that a running request holds, over all servers that report the size of their caches.

    The mean is over the fleet. A server whose requests are all young would otherwise seem to have room for more.
    """

    __slots__ = ("_requests", "_seen_s", "_tokens", "_waiting_share", "answer_tokens", "cache_tokens", "tokens")

    def __init__(self) -> None:
        self.tokens = 0.0
        """0 before the first observation."""
        self.answer_tokens = 0.0
        """Those beyond the prompt. 0 where shared prompts save more than answers hold."""
        self.cache_tokens = 0
        """Mean capacity of a server's KV cache."""
        self._waiting_share = 0.0
        """Share of queued requests among all that the servers report."""
        self._tokens = self._requests = 0.0
        self._seen_s = -inf

    def observe(self, endpoints: Sequence[Endpoint], now_s: float) -> None:
        """Update the means from the newest scrapes."""
        reported = [
            metrics
            for endpoint in endpoints
            if (metrics := endpoint.metrics) is not None and metrics.cache_tokens and not endpoint.credibility.missing
        ]
        kept = 0.5 ** ((now_s - self._seen_s) / HALF_LIFE_S)
        self._seen_s = now_s
        # `fsum` is exact, so the order of the endpoints does not matter.
        held_tokens = fsum(metrics.kv_cache_usage * metrics.cache_tokens for metrics in reported)
        self._tokens = kept * self._tokens + (1.0 - kept) * held_tokens
        self._requests = kept * self._requests + (1.0 - kept) * sum(metrics.running for metrics in reported)
        self.tokens = self._tokens / self._requests if self._requests else 0.0
        self.cache_tokens = sum(metrics.cache_tokens for metrics in reported) // max(1, len(reported))
        waiting = sum(metrics.queue_depth for metrics in reported)
        self._waiting_share = waiting / max(1, waiting + sum(metrics.running for metrics in reported))
        progress = [metrics.progress for metrics in reported if metrics.progress is not None]
        prompts = fsum(counters.first_tokens for counters in progress)
        prompt_tokens = fsum(counters.prompt_tokens for counters in progress) / prompts if prompts else self.tokens
        self.answer_tokens = max(0.0, self.tokens - prompt_tokens)

    def usage(self, metrics: ServerMetrics, requests: int) -> float:
        """Expected KV cache usage, 0 to 1, of a server with so many `requests`: the reported or the predicted one."""
        if not metrics.cache_tokens:
            return metrics.kv_cache_usage
        expected = MIN_EXPECTED_SHARE * requests * self.tokens / metrics.cache_tokens
        return max(metrics.kv_cache_usage, min(1.0, expected))

    def with_missing(self, metrics: ServerMetrics, missing: int, requests: int) -> ServerMetrics:
        """`metrics` of a server that leaves out `missing` of its `requests`, completed from the other servers' means:
        the share of queued requests, and the tokens that a request holds."""
        waiting = round(missing * self._waiting_share)
        cache_tokens = metrics.cache_tokens or self.cache_tokens
        held = min(1.0, requests * self.tokens / cache_tokens) if cache_tokens else 0.0
        return replace(
            metrics,
            running=metrics.running + missing - waiting,
            queue_depth=metrics.queue_depth + waiting,
            kv_cache_usage=max(metrics.kv_cache_usage, held),
            kv_blocks=cache_tokens,
            block_size_tokens=1,
        )


def pressure(kv_cache_usage: float, queue_depth: int, running: int) -> float:
    """Factor of at least 1 by which a full KV cache or a queue raises a server's cost."""
    factor = 1.0
    if kv_cache_usage > PRESSURE_STARTS_AT:
        excess = (kv_cache_usage - PRESSURE_STARTS_AT) / (1.0 - PRESSURE_STARTS_AT)
        # 1.2 at a usage of one half, 3 at a full cache.
        factor += 2.0 * excess * excess
    if queue_depth:
        # With a queue as long as the batch, a request waits until a whole batch of requests has ended.
        factor += queue_depth / max(1, running)
    return factor
