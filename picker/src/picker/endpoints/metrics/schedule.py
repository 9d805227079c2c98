"""Decides when an endpoint is scraped next, in the caller's time.

A page costs its server time in which it streams no tokens. So the interval doubles while the pages show what the
in-flight tracker predicts, and returns to the shortest after one that does not (Trickle, RFC 6206). Both ends of the
interval follow from the time that the server takes for a page.
"""

from collections import deque
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from picker.endpoints.endpoint import Endpoint, ServerMetrics

MIN_SETTING_S = 0.01
"""Lower limit on the interval: below it a process would do nothing else."""

JITTER = 0.1
"""Share of the interval by which scrapes vary either way. Endpoints that joined together are then not scraped at the
same moment, and several pickers do not scrape a server at the same moment."""

GROWTH = 2.0
"""Factor of the interval after a page that was predicted, as in Trickle."""

UNPREDICTED_SHARES = 5.0
"""Share of a server's time for pages that are not predicted, as a multiple of that for predicted ones. Judgement: then
a page of 10 ms is scraped every 0.2 s, and one of 30 ms takes 5 % of the time instead of 15 %."""

PAGE_TIMES = 8
"""Newest pages whose shortest time counts as the server's time for a page. Most pages also wait for other work of the
server, of the network or of this process. Judgement: a page that grows is noticed within seconds."""

IDLE_INTERVALS = 5
"""An idle server is scraped every fifth interval. This picker sees its own requests at once, so a scrape can only show
requests from elsewhere. Large fleets are idle for long times."""

FOREIGN_SLACK = 1.0
"""Foreign requests that are expected on any page: it precedes the end of a request that has ended. Measured with one
picker in simulation: 1 on less than 0.1 % of the pages."""

FOREIGN_SHARE = 0.05
"""The same as a share of the requests in flight. Judgement: so few foreign requests change no decision."""

QUEUE_SLACK = 2.0
"""Difference between the predicted and the reported queue that counts as predicted. Judgement."""

QUEUE_SHARE = 0.25
"""The same as a share of the predicted queue. Judgement: the queue's part of the cost is as uncertain."""

KV_CACHE_SLACK = 0.1
"""Difference between the predicted and the reported KV cache usage that counts as predicted. Measured in simulation:
larger on less than 1 % of the pages. It changes the pressure of a half full cache by a tenth."""


@dataclass(frozen=True, slots=True)
class ScrapeIntervals:
    """Limits on the time between the starts of two scrapes of an endpoint."""

    interval_s: float
    """The shortest. The in-flight tracker counts this picker's requests at once. Scrapes add requests from elsewhere,
    and the servers' progress."""
    max_interval_s: float = 1.0
    """The longest, unless `interval_s` is longer. A shorter one means `interval_s`. Measured in simulation with one
    picker: 1 s loses nothing to 0.2 s, 2 s loses in overload."""
    server_share: float = 0.01
    """Share of a server's time that predicted pages may take, above 0. `max_interval_s` has priority."""
    retry_after_s: float = 1.0
    """After a failure, if the interval is shorter: a connection costs more than a scrape, and endpoints that fail often
    continue to fail for a while."""

    def __post_init__(self) -> None:
        if self.interval_s < MIN_SETTING_S:
            raise ValueError(f"interval_s is {self.interval_s}: it must be at least {MIN_SETTING_S} s")

    def for_share(self, page_s: float, share: float) -> float:
        """The interval at which pages of `page_s` take `share` of a server's time, within the limits."""
        longest_s = max(self.interval_s, self.max_interval_s)
        return min(longest_s, max(self.interval_s, page_s / share))

    @property
    def idle_s(self) -> float:
        """The interval for an idle server."""
        return max(self.interval_s, min(IDLE_INTERVALS * self.interval_s, self.max_interval_s))


class ScrapeSchedule:
    """The times of one endpoint's scrapes. It decides only by its arguments, and its jitter comes from `rng`."""

    __slots__ = ("_endpoint", "_interval_s", "_intervals", "_may_hasten", "_page_times_s", "_rng", "_started_s")

    def __init__(self, endpoint: "Endpoint", intervals: ScrapeIntervals, rng: Random) -> None:
        self._endpoint = endpoint
        self._intervals = intervals
        self._rng = rng
        self._page_times_s: deque[float] = deque(maxlen=PAGE_TIMES)
        self._started_s = 0.0
        self._may_hasten = False
        self._interval_s = intervals.interval_s
        """Present time between two scrapes, without jitter."""

    @property
    def page_s(self) -> float:
        """The server's time for a page, as far as it is known: from the request to the last byte, the shortest of the
        newest pages. 0 before the first."""
        return min(self._page_times_s, default=0.0)

    def first_s(self, now_s: float) -> float:
        """Time of the first scrape of an endpoint that is new at `now_s`: at random within the shortest interval."""
        return now_s + self._rng.random() * self._intervals.interval_s

    def started(self, now_s: float) -> None:
        """A scrape starts. It ends with `read` or `failed`."""
        self._started_s = now_s
        self._may_hasten = False

    def read(self, before: "ServerMetrics | None", page_s: float, now_s: float) -> float:
        """Return when to scrape next. The scrape took `page_s` from its request to its last byte. The endpoint has its
        metrics now, and had `before` until then."""
        self._page_times_s.append(page_s)
        self._endpoint.page_s = self.page_s
        metrics, intervals = self._endpoint.metrics, self._intervals
        longest_s = intervals.for_share(self.page_s, intervals.server_share)
        if metrics is not None and is_idle(metrics, self._endpoint.in_flight.requests):
            interval_s = max(longest_s, intervals.idle_s)
        elif is_predicted(self._endpoint, before):
            interval_s = min(longest_s, max(self._shortest_s, GROWTH * self._interval_s))
        else:
            interval_s = self._shortest_s
        self._may_hasten = True
        return self._next_s(interval_s, now_s)

    def failed(self, now_s: float) -> float:
        """Return when to scrape next, after a scrape without metrics."""
        return max(self._next_s(self._shortest_s, now_s), now_s + self._intervals.retry_after_s)

    def hasten(self, now_s: float) -> float | None:
        """Return when to scrape next, because the newest page no longer shows what is there. None to change nothing:
        during a scrape, after a failure, and after the first call since the newest page."""
        if not self._may_hasten:
            return None
        self._may_hasten = False
        return self._next_s(min(self._interval_s, self._shortest_s), now_s)

    @property
    def _shortest_s(self) -> float:
        return self._intervals.for_share(self.page_s, UNPREDICTED_SHARES * self._intervals.server_share)

    def _next_s(self, interval_s: float, now_s: float) -> float:
        self._interval_s = self._endpoint.scrape_interval_s = interval_s
        jittered_s = interval_s * (1.0 + JITTER * (2.0 * self._rng.random() - 1.0))
        return max(now_s, self._started_s + jittered_s)


def is_idle(metrics: "ServerMetrics", in_flight: int) -> bool:
    """Whether neither a server's metrics nor the requests `in_flight` there show a request."""
    return not (metrics.running or metrics.queue_depth or in_flight)


def is_predicted(endpoint: "Endpoint", before: "ServerMetrics | None") -> bool:
    """Whether the newest scrape of `endpoint` shows what followed from the one before and the in-flight tracker."""
    metrics = endpoint.metrics
    if metrics is None or before is None or endpoint.failing or endpoint.credibility.lacks_requests:
        return False
    if metrics.foreign_requests > FOREIGN_SLACK + FOREIGN_SHARE * metrics.in_flight_at_scrape:
        return False
    return (
        not _is_changed(before, metrics)
        and abs(metrics.queue_depth - (queue := _predicted_queue(before, metrics))) <= QUEUE_SLACK + QUEUE_SHARE * queue
        and abs(metrics.kv_cache_usage - _predicted_kv_cache_usage(before, metrics)) <= KV_CACHE_SLACK
    )


def _predicted_queue(before: "ServerMetrics", metrics: "ServerMetrics") -> int:
    """A server with a queue runs as many requests as before, and the others wait."""
    if not before.queue_depth:
        return 0
    return max(0, before.queue_depth + metrics.in_flight_at_scrape - before.in_flight_at_scrape)


def _predicted_kv_cache_usage(before: "ServerMetrics", metrics: "ServerMetrics") -> float:
    """The running requests hold as much each as before."""
    growth = metrics.running / before.running if before.running else 1.0
    return min(1.0, growth * before.kv_cache_usage)


def _is_changed(before: "ServerMetrics", metrics: "ServerMetrics") -> bool:
    """Whether another engine answers, or the same one after a restart."""
    if (before.kv_blocks, before.block_size_tokens, before.max_loras) != (
        metrics.kv_blocks,
        metrics.block_size_tokens,
        metrics.max_loras,
    ):
        return True
    if before.progress is None or metrics.progress is None:
        return before.progress is not metrics.progress
    return metrics.progress.since(before.progress) is None
