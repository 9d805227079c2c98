"""What a request will hold of a KV cache, and how full it will make one."""

from collections.abc import Sequence
from math import fsum, inf

from msgspec.structs import replace

from picker.endpoints.endpoint import Endpoint, ServerMetrics

HALF_LIFE_S = 5.0
"""What was seen counts half after this long: some scrapes, so that it is no matter of who happens to run, and less than
a load takes to change."""

MIN_EXPECTED_SHARE = 0.6
"""Of what the requests on a server hold on the mean, as much is expected of them at least. What runs there holds nearly
always more (a batch of thirty differs by a tenth), and then the server's own word counts: it knows who is long. It does
not in a burst, whose requests are all young."""

PRESSURE_STARTS_AT = 0.25
"""KV cache usage up to which a server has room for whatever comes. From there on it is avoided, the more the fuller it
is: what runs there will grow, and a full cache means queueing and preemption."""


class KvDemand:
    """What a running request holds, in tokens, as a mean over the servers that tell the size of their caches. Over all
    of them, so that one whose requests are all young does not seem to have room for more of them."""

    __slots__ = ("_requests", "_seen_s", "_tokens", "_waiting_share", "answer_tokens", "cache_tokens", "tokens")

    def __init__(self) -> None:
        self.tokens = 0.0
        """0 before anything was seen."""
        self.answer_tokens = 0.0
        """Of those what is not its prompt; 0 where prompts share more than answers take."""
        self.cache_tokens = 0
        """What a server's KV cache holds, as a mean."""
        self._waiting_share = 0.0
        """Of all requests that the servers report, those that wait."""
        self._tokens = self._requests = 0.0
        self._seen_s = -inf

    def observe(self, endpoints: Sequence[Endpoint], now_s: float) -> None:
        """Take in what the newest scrapes say."""
        told = [
            metrics
            for each in endpoints
            if (metrics := each.metrics) is not None and metrics.cache_tokens and not each.credibility.missing
        ]
        kept = 0.5 ** ((now_s - self._seen_s) / HALF_LIFE_S)
        self._seen_s = now_s
        # Exact, so that the order in which endpoints are listed changes nothing.
        held_tokens = fsum(metrics.kv_cache_usage * metrics.cache_tokens for metrics in told)
        self._tokens = kept * self._tokens + (1.0 - kept) * held_tokens
        self._requests = kept * self._requests + (1.0 - kept) * sum(metrics.running for metrics in told)
        self.tokens = self._tokens / self._requests if self._requests else 0.0
        self.cache_tokens = sum(metrics.cache_tokens for metrics in told) // max(1, len(told))
        waiting = sum(metrics.queue_depth for metrics in told)
        self._waiting_share = waiting / max(1, waiting + sum(metrics.running for metrics in told))
        progress = [metrics.progress for metrics in told if metrics.progress is not None]
        prompts = fsum(each.first_tokens for each in progress)
        prompt_tokens = fsum(each.prompt_tokens for each in progress) / prompts if prompts else self.tokens
        self.answer_tokens = max(0.0, self.tokens - prompt_tokens)

    def usage(self, metrics: ServerMetrics, requests: int) -> float:
        """KV cache usage of a server with so many `requests`, as it is or will soon be: 0 to 1."""
        if not metrics.cache_tokens:
            return metrics.kv_cache_usage
        expected = MIN_EXPECTED_SHARE * requests * self.tokens / metrics.cache_tokens
        return max(metrics.kv_cache_usage, min(1.0, expected))

    def with_missing(self, metrics: ServerMetrics, missing: int, requests: int) -> ServerMetrics:
        """`metrics` of a server that leaves out `missing` of the `requests` there, as the other servers would report
        them: as many of them wait, and they hold as much."""
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
    """A factor, 1 and up: how much worse a server is than its load says, as its KV cache runs full or it queues."""
    factor = 1.0
    if kv_cache_usage > PRESSURE_STARTS_AT:
        excess = (kv_cache_usage - PRESSURE_STARTS_AT) / (1.0 - PRESSURE_STARTS_AT)
        # A fifth worse when half full, three times as bad at the brim.
        factor += 2.0 * excess * excess
    if queue_depth:
        # A queue as long as the batch means waiting for a whole generation of requests to leave.
        factor += queue_depth / max(1, running)
    return factor
