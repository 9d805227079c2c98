"""Reads the metrics of all endpoints, over and over: `endpoint.metrics` is never older than the interval while its
server answers, or a second where it has nothing to do, and its age tells when it does not."""

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
"""Share of the interval by which turns vary either way, so that endpoints that joined together part, and several
pickers do not ask a server at the same moments."""

AT_REST_INTERVALS = 5
"""Of a server that has nothing to do only every fifth scrape is made: nothing happens there that this picker does not
know at once, but for what comes past it. Large fleets stand idle for long."""

AT_REST_MOST_S = 1.0
"""But one a second at least, unless the interval itself is longer."""

BATCH_SHARE = 0.1
"""Share of the interval by which a turn may come early to go along with another. Waking up for one scrape costs more
than the scrape; several share it."""

BATCH_ENDPOINTS = 8
"""At most in one batch: their pages come back together, and hold up for that long what else the process does."""

SHORTEST_S = 0.01
"""Interval and timeout that can be set: below it a process would do nothing else."""

FAILURES_TO_MENTION = 2
"""In a row, before a log line says that an endpoint's metrics have stopped: one alone changes no decision."""


def rests(metrics: ServerMetrics, in_flight: int) -> bool:
    """Whether a server has nothing to do, by its own word and by what this picker has `in_flight` there."""
    return not (metrics.running or metrics.queue_depth or in_flight)


def at_rest_s(interval_s: float) -> float:
    """Between two scrapes of a server that rests."""
    return max(interval_s, min(AT_REST_INTERVALS * interval_s, AT_REST_MOST_S))


@dataclass(frozen=True, slots=True)
class ScrapeSettings:
    """How often and how patiently to scrape."""

    interval_s: float
    """Between the starts of two scrapes of an endpoint. The ledger tells at once what this picker sends; scrapes add
    what comes past it and how far the servers are."""
    timeout_s: float
    """From the connection attempt to the last byte."""
    retry_after_s: float = 1.0
    """After a failure, if the interval is shorter: connecting costs more than scraping, and dead endpoints stay dead
    for a while."""
    max_page_bytes: int = 1 << 20
    """Twenty times a usual page of 42 KiB, so with room for 20 engines. Reading a page of this size takes at most some
    10 ms of the event loop, whatever it holds."""

    def __post_init__(self) -> None:
        for name in ("interval_s", "timeout_s"):
            if getattr(self, name) < SHORTEST_S:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {SHORTEST_S} s")


Observer = Callable[[Endpoint, ScrapeFailure | None], None]
"""Told of each scrape's end, after the endpoint has been changed; None is success."""


class Scraper:
    """Scrapes the endpoints it is given, in the event loop it is made in. One timer serves them all."""

    def __init__(
        self,
        settings: ScrapeSettings,
        tracker: InFlightTracker,
        rng: Random,
        observer: Observer = lambda endpoint, failure: None,
    ) -> None:
        """`tracker` gets the metrics; `rng` draws the jitter."""
        self.settings = settings
        self.tracker = tracker
        self.loop = asyncio.get_running_loop()
        self.observer = observer
        self._rng = rng
        self._targets: dict[Endpoint, _Target] = {}
        self._turns: list[tuple[float, int, _Target]] = []
        """A heap of each target's next turn; the number keeps entries of the same time comparable."""
        self._entries = 0
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at_s = 0.0

    def add(self, endpoint: Endpoint) -> None:
        """Scrape `endpoint` from now on; the first time within the interval. Once added, adding it again does
        nothing."""
        if endpoint in self._targets:
            return
        target = self._targets[endpoint] = _Target(self, endpoint)
        self._schedule(target, self.loop.time() + self._rng.random() * self.settings.interval_s)
        self._arm()

    def remove(self, endpoint: Endpoint) -> None:
        """Scrape `endpoint` no more; what it has of metrics stays."""
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
        """Until an endpoint's next scrape."""
        return interval_s * (1.0 + JITTER * (2.0 * self._rng.random() - 1.0))

    def _schedule(self, target: "_Target", due_s: float) -> None:
        self._entries += 1
        heappush(self._turns, (due_s, self._entries, target))

    def _arm(self) -> None:
        """Have the timer ring for the first turn."""
        if not self._turns:
            return
        due_s = self._turns[0][0]
        if self._timer is not None:
            if self._rings_at_s <= due_s:
                return
            self._timer.cancel()
        self._rings_at_s = due_s
        self._timer = self.loop.call_at(due_s, self._ring)

    def _ring(self) -> None:
        """Give a turn to each target that is due."""
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
        """Give up a scrape that is late at `now_s`, or begin one that is due before `soon_s`. The time of the next
        turn."""
        if self._scraping and self._deadline_s <= now_s:
            self._drop_connection()
            self._failed(ScrapeFailure.TIMEOUT, f"no answer in {self._scraper.settings.timeout_s:g} s")
        elif not self._scraping and self._due_s <= soon_s:
            self._scraping = True
            self._deadline_s = now_s + self._scraper.settings.timeout_s
            self._due_s = now_s + self._scraper.jittered_s(self._scraper.settings.interval_s)
            self._ask()
        if not self._scraping:
            return self._due_s
        # A server that answers later than the interval is looked at once an interval until it has.
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
            # What is in flight is counted now rather than when the page was asked for: a server that answers late
            # writes its page late.
            metrics = self._reader.read(page, now_s, endpoint.in_flight.requests)
            self._scraper.tracker.scraped(endpoint, metrics)
        except NoServerMetrics as error:
            self._failed(ScrapeFailure.NOT_METRICS, str(error))
            return
        except Exception as error:  # noqa: BLE001 - one server's page must not end the scrapes, nor pass for a timeout
            self._broken(error)
            return
        self._scraping = False
        if rests(metrics, endpoint.in_flight.requests):
            resting_s = self._scraper.jittered_s(at_rest_s(self._scraper.settings.interval_s))
            self._due_s = max(self._due_s, now_s + resting_s)
        if self._failures >= FAILURES_TO_MENTION:
            log.info("endpoint.metrics_resumed", endpoint=endpoint.address, server=endpoint.server)
        self._failures = 0
        self._scraper.observer(endpoint, None)

    def _broken(self, error: Exception) -> None:
        """A page that the picker fails on, by a fault of its own: counted as `not-metrics`, and logged once with its
        traceback."""
        if not self._fault_logged:
            self._fault_logged = True
            log.error("endpoint.metrics_unread", endpoint=self._endpoint.address, exc_info=error)
        self._failed(ScrapeFailure.NOT_METRICS, f"{type(error).__name__}: {error}")

    def page_failed(self, failure: ScrapeFailure, detail: str) -> None:
        stale = failure is ScrapeFailure.CLOSED and self._connection is not None and self._connection.went_stale
        self._connection = None
        if stale:
            self._ask()
        else:
            self._failed(failure, detail)

    def _ask(self) -> None:
        if self._connection is not None and self._connection.idle:
            self._connection.ask()
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
            # ValueError: a host that is neither an address nor a name (UnicodeError of its encoding).
            self._failed(ScrapeFailure.UNREACHABLE, str(error))

    def _drop_connection(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()
        self._connecting = self._connection = None

    def _failed(self, failure: ScrapeFailure, detail: str) -> None:
        """A scrape ended without metrics. Those of before stay, and their age tells."""
        settings, endpoint = self._scraper.settings, self._endpoint
        self._scraping = False
        self._due_s = max(self._due_s, self._scraper.loop.time() + settings.retry_after_s)
        self._failures += 1
        if self._failures == FAILURES_TO_MENTION:
            log.warning(
                "endpoint.metrics_stopped",
                endpoint=endpoint.address,
                server=endpoint.server,
                reason=failure.value,
                detail=shorten(detail),
            )
        self._scraper.observer(endpoint, failure)
