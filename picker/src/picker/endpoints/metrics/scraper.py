"""Reads the metrics of all endpoints periodically.

While a server answers, `endpoint.metrics` is not older than the interval, or a second for an idle server. If a scrape
fails the old metrics stay. Compare `scraped_at_s` with the clock to see their age.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random

import structlog

from picker.bounded_text import shorten
from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.metrics.connection import ScrapeConnection, ScrapeFailure
from picker.endpoints.metrics.vllm_parser import MetricsReader, NoServerMetrics

log = structlog.get_logger(__name__)

PATH = "/metrics"

JITTER = 0.1
"""Share of the interval by which scrapes vary either way. Endpoints that joined together are then not scraped at the
same moment, and several pickers do not scrape a server at the same moment."""

IDLE_INTERVALS = 5
"""An idle server is scraped every fifth interval. This picker sees its own requests at once, so a scrape can only show
requests from elsewhere. Large fleets are idle for long times."""

IDLE_MAX_INTERVAL_S = 1.0
"""Upper limit on the time between scrapes of an idle server, unless the interval itself is longer."""

BATCH_SHARE = 0.1
"""Share of the interval by which a scrape may be early to join a batch. To wake up for one scrape costs more than the
scrape. A batch shares that cost."""

BATCH_ENDPOINTS = 8
"""Limit on a batch: its pages arrive together and block other work of the process for that long."""

MIN_SETTING_S = 0.01
"""Lower limit on the interval and the timeout: below it a process would do nothing else."""

FAILURES_BEFORE_LOG = 2
"""Failures in a row before the log reports that an endpoint's metrics have stopped. A single one changes no
decision."""


def rests(metrics: ServerMetrics, in_flight: int) -> bool:
    """Whether a server is idle: neither its metrics nor this picker's `in_flight` count show a request."""
    return not (metrics.running or metrics.queue_depth or in_flight)


def at_rest_s(interval_s: float) -> float:
    """Time between two scrapes of an idle server."""
    return max(interval_s, min(IDLE_INTERVALS * interval_s, IDLE_MAX_INTERVAL_S))


@dataclass(frozen=True, slots=True)
class ScrapeSettings:
    """Intervals, timeouts and limits of scrapes."""

    interval_s: float
    """Between the starts of two scrapes of an endpoint. The in-flight tracker counts this picker's requests at once.
    Scrapes add requests from elsewhere, and the servers' progress."""
    timeout_s: float
    """From the connection attempt to the last byte."""
    retry_after_s: float = 1.0
    """After a failure, if the interval is shorter: a connection costs more than a scrape, and endpoints that fail often
    continue to fail for a while."""
    max_page_bytes: int = 1 << 20
    """Twenty times a usual page of 42 KiB, so enough for 20 engines. A page of this size, whatever its content, takes
    at most some 10 ms of the event loop."""

    def __post_init__(self) -> None:
        for name in ("interval_s", "timeout_s"):
            if getattr(self, name) < MIN_SETTING_S:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {MIN_SETTING_S} s")


Observer = Callable[[Endpoint, ScrapeFailure | None], None]
"""Called at the end of each scrape, after the endpoint has been changed. None means success."""


class Scraper:
    """Scrapes its endpoints in the event loop in which it was created. One timer serves all of them."""

    def __init__(
        self,
        settings: ScrapeSettings,
        tracker: InFlightTracker,
        rng: Random,
        observer: Observer = lambda endpoint, failure: None,
    ) -> None:
        """`tracker` receives the metrics. `rng` draws the jitter."""
        self.settings = settings
        self.tracker = tracker
        self.loop = asyncio.get_running_loop()
        self.observer = observer
        self._rng = rng
        self._targets: dict[Endpoint, _Target] = {}
        self._turns: list[tuple[float, int, _Target]] = []
        """A heap of the next turn of each target. The number keeps entries of the same time comparable."""
        self._entries = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = 0.0

    def add(self, endpoint: Endpoint) -> None:
        """Start to scrape `endpoint`, the first time within the interval. No-op for an endpoint that was added
        before."""
        if endpoint in self._targets:
            return
        target = self._targets[endpoint] = _Target(self, endpoint)
        self._schedule(target, self.loop.time() + self._rng.random() * self.settings.interval_s)
        self._arm()

    def remove(self, endpoint: Endpoint) -> None:
        """Stop to scrape `endpoint`. Its metrics stay."""
        target = self._targets.pop(endpoint, None)
        if target is not None:
            target.stop()

    def close(self) -> None:
        """Remove all endpoints and stop."""
        for endpoint in list(self._targets):
            self.remove(endpoint)
        self._turns.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def jittered_s(self, interval_s: float) -> float:
        """Time until an endpoint's next scrape."""
        return interval_s * (1.0 + JITTER * (2.0 * self._rng.random() - 1.0))

    def _schedule(self, target: "_Target", due_s: float) -> None:
        self._entries += 1
        heappush(self._turns, (due_s, self._entries, target))

    def _arm(self) -> None:
        """Set the timer for the first turn."""
        if not self._turns:
            return
        due_s = self._turns[0][0]
        if self._timer is not None:
            if self._timer_due_s <= due_s:
                return
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = self.loop.call_at(due_s, self._on_timer)

    def _on_timer(self) -> None:
        """Run the turn of each target that is due."""
        self._timer = None
        now_s = self.loop.time()
        soon_s = now_s + self.settings.interval_s * BATCH_SHARE
        due: list[_Target] = []
        while self._turns and self._turns[0][0] <= soon_s and len(due) < BATCH_ENDPOINTS:
            due.append(heappop(self._turns)[2])
        for target in due:
            if not target.stopped:
                self._schedule(target, target.turn(now_s, soon_s))
        self._arm()


class _Target:
    """The scrapes of one endpoint, at most one at a time. See `connection.PageReader`."""

    def __init__(self, scraper: Scraper, endpoint: Endpoint) -> None:
        self.stopped = False
        self._scraper = scraper
        self._endpoint = endpoint
        host, _, port = endpoint.address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._request = (
            f"GET {PATH} HTTP/1.1\r\nHost: {endpoint.address}\r\nAccept: text/plain\r\nUser-Agent: picker\r\n\r\n"
        ).encode()
        self._reader = MetricsReader()
        self._connection: ScrapeConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._scraping = False
        self._deadline_s = 0.0
        self._due_s = 0.0
        self._failures = 0
        self._fault_logged = False

    def turn(self, now_s: float, soon_s: float) -> float:
        """Fail a scrape that is late at `now_s`, or start one that is due before `soon_s`. Returns the time of the next
        turn."""
        if self._scraping and self._deadline_s <= now_s:
            self._drop_connection()
            self._failed(ScrapeFailure.TIMEOUT, f"no response in {self._scraper.settings.timeout_s:g} s")
        elif not self._scraping and self._due_s <= soon_s:
            self._scraping = True
            self._deadline_s = now_s + self._scraper.settings.timeout_s
            self._due_s = now_s + self._scraper.jittered_s(self._scraper.settings.interval_s)
            self._request_page()
        if not self._scraping:
            return self._due_s
        # A server that answers later than the interval is checked once per interval.
        next_s = self._due_s if self._due_s > soon_s else now_s + self._scraper.settings.interval_s
        return min(next_s, self._deadline_s)

    def stop(self) -> None:
        self.stopped = True
        self._drop_connection()

    def connected(self) -> None:
        self._endpoint.unreachable_since_s = None

    def page_read(self, page: bytes) -> None:
        endpoint, now_s = self._endpoint, self._scraper.loop.time()
        try:
            # In-flight requests are counted now, and not when the page was requested: a server that answers late writes
            # its page late.
            metrics = self._reader.read(page, now_s, endpoint.in_flight.requests)
            self._scraper.tracker.scraped(endpoint, metrics)
        except NoServerMetrics as error:
            self._failed(ScrapeFailure.NOT_METRICS, str(error))
            return
        except Exception as error:  # noqa: BLE001 - one server's page must not end the scrapes or count as a timeout
            self._broken(error)
            return
        self._scraping = False
        if rests(metrics, endpoint.in_flight.requests):
            resting_s = self._scraper.jittered_s(at_rest_s(self._scraper.settings.interval_s))
            self._due_s = max(self._due_s, now_s + resting_s)
        if self._failures >= FAILURES_BEFORE_LOG:
            log.info("endpoint.metrics_resumed", endpoint=endpoint.address, server=endpoint.server)
        self._failures = 0
        self._scraper.observer(endpoint, None)

    def _broken(self, error: Exception) -> None:
        """Handle a page on which the picker raises: a fault of the picker. Counted as `not-metrics`, and logged once
        with its traceback."""
        if not self._fault_logged:
            self._fault_logged = True
            log.error("endpoint.metrics_unread", endpoint=self._endpoint.address, exc_info=error)
        self._failed(ScrapeFailure.NOT_METRICS, f"{type(error).__name__}: {error}")

    def page_failed(self, failure: ScrapeFailure, detail: str) -> None:
        stale = failure is ScrapeFailure.CLOSED and self._connection is not None and self._connection.went_stale
        self._connection = None
        if stale:
            self._request_page()
        else:
            self._failed(failure, detail)

    def _request_page(self) -> None:
        if self._connection is not None and self._connection.idle:
            self._connection.send_request()
            return
        self._connection = ScrapeConnection(self, self._request, self._scraper.settings.max_page_bytes)
        self._connecting = self._scraper.loop.create_task(self._connect(self._connection))

    async def _connect(self, connection: ScrapeConnection) -> None:
        try:
            await self._scraper.loop.create_connection(lambda: connection, self._host, self._port)
        except ConnectionRefusedError as error:
            if self._endpoint.unreachable_since_s is None:
                self._endpoint.unreachable_since_s = self._scraper.loop.time()
            self._failed(ScrapeFailure.REFUSED, str(error))
        except (OSError, ValueError) as error:
            # ValueError: a host that is neither an address nor a name (the UnicodeError of its encoding).
            self._failed(ScrapeFailure.UNREACHABLE, str(error))

    def _drop_connection(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()
        self._connecting = self._connection = None

    def _failed(self, failure: ScrapeFailure, detail: str) -> None:
        """Handle a scrape without metrics. The previous metrics stay."""
        settings, endpoint = self._scraper.settings, self._endpoint
        self._scraping = False
        self._due_s = max(self._due_s, self._scraper.loop.time() + settings.retry_after_s)
        self._failures += 1
        if self._failures == FAILURES_BEFORE_LOG:
            log.warning(
                "endpoint.metrics_stopped",
                endpoint=endpoint.address,
                server=endpoint.server,
                reason=failure.value,
                detail=shorten(detail),
            )
        self._scraper.observer(endpoint, failure)
