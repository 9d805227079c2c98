"""Reads the metrics of all endpoints, each as often as its `ScrapeSchedule` decides.

While a server answers, `endpoint.metrics` is not older than the longest interval. If a scrape fails the old metrics
stay. Compare `scraped_at_s` with the clock to see their age.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from random import Random

import structlog

from picker.bounded_text import shorten
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.metrics.connection import ScrapeConnection, ScrapeFailure
from picker.endpoints.metrics.schedule import MIN_SETTING_S, ScrapeIntervals, ScrapeSchedule
from picker.endpoints.metrics.vllm_parser import MetricsReader, NoServerMetrics

log = structlog.get_logger(__name__)

PATH = "/metrics"

BATCH_SHARE = 0.1
"""Share of the shortest interval by which a scrape may be early to join a batch. To wake up for one scrape costs more
than the scrape. A batch shares that cost."""

BATCH_ENDPOINTS = 8
"""Limit on a batch: its pages arrive together and block other work of the process for that long."""

MAX_ENTRIES = 16
"""Entries of a target among the turns, from which those that are no longer valid are removed. A scrape leaves two."""

FAILURES_BEFORE_LOG = 2
"""Failures in a row before the log reports that an endpoint's metrics have stopped. A single one changes no
decision."""


@dataclass(frozen=True, slots=True)
class ScrapeSettings:
    """Intervals, timeouts and limits of scrapes."""

    intervals: ScrapeIntervals
    timeout_s: float
    """From the connection attempt to the last byte."""
    max_page_bytes: int = 1 << 20
    """Twenty times a usual page of 54 KB, so enough for 20 engines. A page of this size, whatever its content, takes
    at most some 10 ms of the event loop."""

    def __post_init__(self) -> None:
        if self.timeout_s < MIN_SETTING_S:
            raise ValueError(f"timeout_s is {self.timeout_s}: it must be at least {MIN_SETTING_S} s")


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
        """`tracker` receives the metrics, and reports endpoints that outrun them. `rng` draws the jitter."""
        self.settings = settings
        self.tracker = tracker
        tracker.on_outran_scrape = self.hasten
        self.loop = asyncio.get_running_loop()
        self.observer = observer
        self.rng = rng
        self._targets: dict[Endpoint, _Target] = {}
        self._turns: list[tuple[float, int, _Target]] = []
        """A heap of the turns of the targets, and entries that are no longer valid: their number is not the target's.
        The numbers also make entries of the same time comparable."""
        self._entries = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = 0.0

    def add(self, endpoint: Endpoint, interval_s: float | None = None) -> None:
        """Start to scrape `endpoint`, the first time within its shortest interval: `interval_s`, or that of the
        settings. No-op for an endpoint that was added with the same one."""
        intervals = self.settings.intervals
        if interval_s is not None and interval_s != intervals.interval_s:
            intervals = replace(intervals, interval_s=interval_s)
        target = self._targets.get(endpoint)
        if target is not None:
            if target.intervals == intervals:
                return
            self.remove(endpoint)
        target = self._targets[endpoint] = _Target(self, endpoint, intervals)
        self.schedule(target, target.schedule.first_s(self.loop.time()))

    def remove(self, endpoint: Endpoint) -> None:
        """Stop to scrape `endpoint`. Its metrics stay."""
        target = self._targets.pop(endpoint, None)
        if target is not None:
            target.stop()

    def hasten(self, endpoint: Endpoint) -> None:
        """Scrape `endpoint` after the shortest interval: its newest scrape no longer shows what is there."""
        target = self._targets.get(endpoint)
        if target is not None:
            target.hasten()

    def close(self) -> None:
        """Remove all endpoints and stop."""
        for endpoint in list(self._targets):
            self.remove(endpoint)
        self._turns.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def schedule(self, target: "_Target", due_s: float) -> None:
        """Set the time of the next turn of `target`, in place of the one before."""
        self._entries += 1
        target.entry = self._entries
        heappush(self._turns, (due_s, self._entries, target))
        if len(self._turns) > MAX_ENTRIES * len(self._targets):
            self._turns = [turn for turn in self._turns if turn[1] == turn[2].entry]
            heapify(self._turns)
        self._arm()

    def _arm(self) -> None:
        """Set the timer for the first turn."""
        due_s = self._first_due_s()
        if due_s is None:
            return
        if self._timer is not None:
            if self._timer_due_s <= due_s:
                return
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = self.loop.call_at(due_s, self._on_timer)

    def _first_due_s(self) -> float | None:
        """The time of the first turn. None if there is none."""
        turns = self._turns
        while turns and turns[0][1] != turns[0][2].entry:
            heappop(turns)
        return turns[0][0] if turns else None

    def _on_timer(self) -> None:
        """Run the turn of each target that is due."""
        self._timer = None
        now_s = self.loop.time()
        due: list[_Target] = []
        while len(due) < BATCH_ENDPOINTS and (due_s := self._first_due_s()) is not None:
            early_s = self._turns[0][2].intervals.interval_s * BATCH_SHARE
            if due_s > now_s + early_s:
                break
            due.append(heappop(self._turns)[2])
        for target in due:
            target.turn(now_s)
        self._arm()


class _Target:
    """The scrapes of one endpoint, at most one at a time. See `connection.PageReader`."""

    def __init__(self, scraper: Scraper, endpoint: Endpoint, intervals: ScrapeIntervals) -> None:
        self.entry = 0
        """Number of the valid entry among the scraper's turns. 0: none."""
        self.intervals = intervals
        self.schedule = ScrapeSchedule(endpoint, intervals, scraper.rng)
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
        self._requested_s = 0.0
        self._failures = 0
        self._fault_logged = False

    def turn(self, now_s: float) -> None:
        """Start a scrape, or fail the one that is late at `now_s`."""
        if not self._scraping:
            self._scraping = True
            self._deadline_s = now_s + self._scraper.settings.timeout_s
            self.schedule.started(now_s)
            self._scraper.schedule(self, self._deadline_s)
            self._request_page()
        elif self._deadline_s <= now_s:
            self._drop_connection()
            self._failed(ScrapeFailure.TIMEOUT, f"no response in {self._scraper.settings.timeout_s:g} s")
        else:
            self._scraper.schedule(self, self._deadline_s)

    def hasten(self) -> None:
        due_s = self.schedule.hasten(self._scraper.loop.time())
        if due_s is not None:
            self._scraper.schedule(self, due_s)

    def stop(self) -> None:
        self.entry = 0
        self._drop_connection()

    def connected(self) -> None:
        self._endpoint.unreachable_since_s = None
        self._requested_s = self._scraper.loop.time()

    def page_read(self, page: bytes) -> None:
        endpoint, now_s = self._endpoint, self._scraper.loop.time()
        before = endpoint.metrics
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
        self._scraper.schedule(self, self.schedule.read(before, now_s - self._requested_s, now_s))
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
            self._requested_s = self._scraper.loop.time()
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
        endpoint = self._endpoint
        self._scraping = False
        self._scraper.schedule(self, self.schedule.failed(self._scraper.loop.time()))
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
