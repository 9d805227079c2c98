"""Checks the load that a server reports against this picker's in-flight requests and against the server's counters.

A server that reports less than the picker has in flight there would attract all load of its pool. A server whose gauges
keep the values of a load that has ended would get no requests. Only a request would update them: vLLM writes its gauges
when its engine makes a step.
"""

from math import inf
from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

if TYPE_CHECKING:
    from picker.endpoints.endpoint import Endpoint, ServerMetrics

log = structlog.get_logger(__name__)

MISSING_AFTER_S = 3.0
"""Requests count as missing if each scrape of this time missed them. A page is as old as the server's last step, which
takes a second at most. A server counts a request only after its prompt is tokenized."""

MISSING_SLACK = 4
"""Generating requests that may be on their way, in addition to as many as the server reports."""

CONTRADICTED_AFTER_S = 10.0
"""From then on the contradiction is logged and exported: `inference_gateway_endpoint_contradicts_ledger`."""

STALLED_S = 15.0
"""How long a reported load is accepted while none of the server's counters moves and this picker has no request there.
The prefill of a prompt of 75,000 tokens on an A10 takes so long, and moves no counter."""

STALLED_BLIND_S = 60.0
"""The same for a server without these counters: its gauges must not move either."""

PROVEN_AFTER = 10
"""Responses after which generated tokens are compared with requests: as many as the error rate counts."""


class Credibility:
    """This picker's own counts for one server. Changed by the in-flight tracker. Counts generating requests only."""

    __slots__ = ("_generated", "_least_missing", "_missing_since_s", "_stalled_since_s", "begun", "contradicted",
                 "ended", "generating", "missing")  # fmt: skip

    def __init__(self) -> None:
        self.generating = 0
        """In flight."""
        self.begun = 0
        """Those sent since the newest scrape."""
        self.ended = 0
        """Ended with a response that was no error, since the last comparison of generated tokens."""
        self.missing = 0
        """In flight for longer than MISSING_AFTER_S, and not among the reported running and waiting requests."""
        self.contradicted = False
        """Requests are missing for longer than CONTRADICTED_AFTER_S."""
        self._generated = 0.0
        self._least_missing = inf
        self._missing_since_s: float | None = None
        self._stalled_since_s: float | None = None

    @property
    def lacks_requests(self) -> bool:
        """Whether the newest scrape leaves out so many requests that they will count as missing."""
        return self._missing_since_s is not None

    def scraped(self, endpoint: "Endpoint", metrics: "ServerMetrics") -> "ServerMetrics":
        """The metrics to use for a new scrape of `endpoint`, whose `metrics` are still those of the last scrape."""
        self._compare(endpoint, metrics)
        self.begun = 0
        before = endpoint.metrics
        if before is None:
            return metrics
        self._check_generated(endpoint, before, metrics)
        return self._without_stalled(endpoint, before, metrics)

    def _compare(self, endpoint: "Endpoint", metrics: "ServerMetrics") -> None:
        there, reported, now_s = (
            self.generating - self.begun,
            metrics.running + metrics.queue_depth,
            metrics.scraped_at_s,
        )
        if there <= 2 * reported + MISSING_SLACK:
            self.missing, self.contradicted = 0, False
            self._missing_since_s, self._least_missing = None, inf
            return
        if self._missing_since_s is None:
            self._missing_since_s = now_s
        self._least_missing = min(self._least_missing, there - reported)
        if now_s - self._missing_since_s >= MISSING_AFTER_S:
            self.missing = int(self._least_missing)
        if now_s - self._missing_since_s >= CONTRADICTED_AFTER_S and not self.contradicted:
            self.contradicted = True
            log.warning(
                "endpoint.contradicts_ledger",
                endpoint=endpoint.address,
                server=endpoint.server,
                in_flight=there,
                running=metrics.running,
                waiting=metrics.queue_depth,
            )

    def _check_generated(self, endpoint: "Endpoint", before: "ServerMetrics", metrics: "ServerMetrics") -> None:
        """Count responses without tokens as failures.

        Nothing else shows errors inside a 200, and a server that fails quickly must not look fast.
        """
        if metrics.generation_tokens is None or before.generation_tokens is None:
            self.ended = 0
            return
        generated = metrics.generation_tokens - before.generation_tokens
        if generated < 0:
            self.ended, self._generated = 0, 0.0
            return
        self._generated += generated
        if self.ended >= PROVEN_AFTER:
            # Half of the responses may be without tokens: clients may disconnect before the first one.
            if 2 * self._generated < self.ended:
                for _ in range(min(PROVEN_AFTER, int(self.ended - self._generated))):
                    endpoint.answer_counted(failed=True)
            self.ended, self._generated = 0, 0.0

    def _without_stalled(
        self, endpoint: "Endpoint", before: "ServerMetrics", metrics: "ServerMetrics"
    ) -> "ServerMetrics":
        loaded = metrics.running or metrics.queue_depth or metrics.kv_cache_usage or metrics.active_loras
        if not loaded or endpoint.in_flight.requests or before.in_flight_at_scrape or _moved(before, metrics):
            self._stalled_since_s = None
            return metrics
        if self._stalled_since_s is None:
            self._stalled_since_s = before.scraped_at_s
        blind = metrics.progress is None and metrics.generation_tokens is None
        if metrics.scraped_at_s - self._stalled_since_s < (STALLED_BLIND_S if blind else STALLED_S):
            return metrics
        none = frozenset[str]()
        return replace(
            metrics, running=0, queue_depth=0, kv_cache_usage=0.0, active_loras=none, waiting_loras=none, stalled=True
        )


def _moved(before: "ServerMetrics", metrics: "ServerMetrics") -> bool:
    """Whether the server has done any work between two scrapes."""
    if before.progress != metrics.progress or before.generation_tokens != metrics.generation_tokens:
        return True
    return not before.stalled and (before.running, before.queue_depth) != (metrics.running, metrics.queue_depth)
