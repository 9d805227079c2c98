"""How often an endpoint is scraped, by what its pages show and what they cost."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from fleet import begin, endpoint
from hypothesis import given
from hypothesis import strategies as st
from picker.endpoints.endpoint import MAX_UNSCRAPED_BURST, Endpoint, ServerMetrics
from picker.endpoints.in_flight import CountedRequest, InFlightTracker
from picker.endpoints.load.prefill_tracker import PrefillCounters
from picker.endpoints.metrics.schedule import JITTER, PAGE_TIMES, ScrapeIntervals, ScrapeSchedule

CHEAP_S, USUAL_S, DEAR_S = 0.0003, 0.01, 0.03
"""Pages of a mock, and two of a vLLM."""


@dataclass
class Scraped:
    """An endpoint with `requests` of this picker that is scraped by its schedule."""

    page_s: float
    requests: int = 8
    intervals: ScrapeIntervals = field(default_factory=lambda: ScrapeIntervals(0.2))
    where: Endpoint = field(default_factory=lambda: endpoint(1, scraped=False))
    now_s: float = 100.0

    def __post_init__(self) -> None:
        self.schedule = ScrapeSchedule(self.where, self.intervals, Random(1))
        self.tracker = InFlightTracker()
        self.where.in_flight.requests = self.requests
        self.due_s = self.schedule.first_s(self.now_s)

    def scrape(self, page_s: float | None = None, **page: Any) -> float:
        """Scrape at the due time, and return the interval that follows. The page shows the requests in flight unless
        `page` has other values."""
        self.now_s = self.due_s
        self.schedule.started(self.now_s)
        own = self.where.in_flight.requests
        usual: Mapping[str, Any] = {"running": own, "queue_depth": 0, "kv_cache_usage": own / 100}
        before = self.where.metrics
        self.now_s += self.page_s if page_s is None else page_s
        metrics = ServerMetrics(**{**usual, **page}, in_flight_at_scrape=own, scraped_at_s=self.now_s)
        self.tracker.scraped(self.where, metrics)
        self.due_s = self.schedule.read(before, self.page_s if page_s is None else page_s, self.now_s)
        return self.interval_s

    def settle(self) -> float:
        """Scrape until the interval no longer changes."""
        for _ in range(10):
            self.scrape()
        return self.interval_s

    @property
    def interval_s(self) -> float:
        assert self.where.scrape_interval_s is not None
        return self.where.scrape_interval_s


@pytest.mark.parametrize(("page_s", "interval_s"), [(CHEAP_S, 0.2), (0.005, 0.5), (USUAL_S, 1.0), (DEAR_S, 1.0)])
def test_predicted_pages_take_a_hundredth_of_a_servers_time(page_s: float, interval_s: float) -> None:
    """Between the shortest and the longest interval."""
    assert Scraped(page_s).settle() == pytest.approx(interval_s)


@pytest.mark.parametrize(("page_s", "interval_s"), [(CHEAP_S, 0.2), (USUAL_S, 0.2), (DEAR_S, 0.6)])
def test_other_pages_take_a_twentieth(page_s: float, interval_s: float) -> None:
    scraped = Scraped(page_s)
    scraped.settle()
    for foreign in (20, 30, 10):
        assert scraped.scrape(running=scraped.requests + foreign) == pytest.approx(interval_s)


def test_the_interval_doubles_with_each_predicted_page() -> None:
    scraped = Scraped(USUAL_S)
    assert [scraped.scrape() for _ in range(5)] == pytest.approx([0.2, 0.4, 0.8, 1.0, 1.0])


def test_scrapes_are_an_interval_apart_with_jitter() -> None:
    """Measured from start to start."""
    scraped = Scraped(USUAL_S)
    scraped.settle()
    starts_s: list[float] = []
    for _ in range(50):
        starts_s.append(scraped.due_s)
        scraped.scrape()
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(starts_s)]
    assert len(set(gaps_s)) > 10
    assert 1.0 - JITTER <= min(gaps_s) < max(gaps_s) <= 1.0 + JITTER


@pytest.mark.parametrize(
    "page",
    [
        {"running": 12},
        {"running": 4, "queue_depth": 4},
        {"kv_cache_usage": 0.3},
        {"kv_blocks": 100, "block_size_tokens": 16},
        {"progress": PrefillCounters(1.0, 1.0, 1.0)},
    ],
    ids=["foreign requests", "a queue", "a fuller cache", "another engine", "an engine with counters"],
)
def test_a_page_that_is_not_predicted_resets_the_interval(page: Mapping[str, Any]) -> None:
    scraped = Scraped(USUAL_S)
    assert scraped.settle() == pytest.approx(1.0)
    assert scraped.scrape(**page) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "page",
    [{"running": 9}, {"running": 6, "queue_depth": 2}, {"kv_cache_usage": 0.15}, {"running": 6}],
    ids=["a request that has ended", "a short queue", "a grown cache", "requests on their way"],
)
def test_small_differences_are_predicted(page: Mapping[str, Any]) -> None:
    """A page is as old as the server's last step."""
    scraped = Scraped(USUAL_S)
    scraped.settle()
    assert scraped.scrape(**page) == pytest.approx(1.0)


def test_a_queue_of_the_in_flight_trackers_requests_is_predicted() -> None:
    """A full server runs as many as before, and the others wait."""
    scraped = Scraped(USUAL_S, requests=40)
    scraped.scrape(running=20, queue_depth=20)
    for requests in (44, 50, 45, 48):
        scraped.where.in_flight.requests = requests
        scraped.scrape(running=20, queue_depth=requests - 20, kv_cache_usage=0.95)
    assert scraped.interval_s == pytest.approx(1.0)
    scraped.where.in_flight.requests = 50
    assert scraped.scrape(running=10, queue_depth=40, kv_cache_usage=0.95) == pytest.approx(0.2)


def test_a_restart_resets_the_interval() -> None:
    """Counters decrease."""
    scraped = Scraped(USUAL_S)
    for count in (5.0, 6.0, 7.0, 8.0, 9.0):
        scraped.scrape(progress=PrefillCounters(count, count, count))
    assert scraped.interval_s == pytest.approx(1.0)
    assert scraped.scrape(progress=PrefillCounters(1.0, 1.0, 1.0)) == pytest.approx(0.2)


def test_errors_of_a_server_reset_the_interval() -> None:
    scraped = Scraped(USUAL_S)
    scraped.settle()
    scraped.where.answer_counted(failed=True)
    assert scraped.scrape() == pytest.approx(0.2)


def test_a_server_that_leaves_out_requests_is_scraped_at_the_shortest_interval() -> None:
    scraped = Scraped(USUAL_S, requests=0)
    for _ in range(20):
        begin(scraped.tracker, scraped.where, 100, 100)
    scraped.scrape(kv_cache_usage=0.0)
    assert scraped.scrape(running=2, kv_cache_usage=0.0) == pytest.approx(0.2)


def test_a_failed_scrape_is_repeated_after_a_pause_and_then_at_the_shortest_interval() -> None:
    scraped = Scraped(USUAL_S)
    scraped.settle()
    scraped.schedule.started(scraped.due_s)
    assert scraped.schedule.failed(scraped.due_s + 0.5) == pytest.approx(scraped.due_s + 0.5 + 1.0)
    assert scraped.interval_s == pytest.approx(0.2)


@pytest.mark.parametrize(("page_s", "interval_s"), [(CHEAP_S, 1.0), (DEAR_S, 1.0)])
def test_an_idle_server_is_scraped_at_every_fifth_interval(page_s: float, interval_s: float) -> None:
    """Up to the longest interval."""
    scraped = Scraped(page_s, requests=0)
    assert scraped.settle() == pytest.approx(interval_s)
    often = Scraped(page_s=CHEAP_S, requests=0, intervals=ScrapeIntervals(0.05))
    assert often.settle() == pytest.approx(0.25)


def test_equal_limits_make_the_interval_constant() -> None:
    """The same for a longest interval below the shortest."""
    for longest_s in (0.2, 0.01):
        scraped = Scraped(DEAR_S, intervals=ScrapeIntervals(0.2, longest_s))
        assert {scraped.scrape() for _ in range(9)} | {scraped.scrape(running=99)} == {0.2}


def test_a_page_costs_its_shortest_recent_time() -> None:
    """Other times include waiting for other work."""
    scraped = Scraped(0.002)
    scraped.settle()
    for _ in range(PAGE_TIMES - 1):
        scraped.scrape(page_s=0.2)
    assert scraped.interval_s == pytest.approx(0.2)
    assert scraped.where.page_s == 0.002
    scraped.scrape(page_s=0.2)
    scraped.scrape(page_s=0.2)
    assert scraped.interval_s > 0.2


def test_an_endpoint_that_outruns_its_scrape_is_scraped_after_the_shortest_interval() -> None:
    scraped = Scraped(USUAL_S)
    scraped.settle()
    started_s, now_s = scraped.due_s, scraped.due_s + 0.5
    scraped.scrape()
    assert started_s + 0.9 <= scraped.due_s
    assert scraped.schedule.hasten(now_s) == now_s
    assert scraped.schedule.hasten(now_s) is None
    assert scraped.interval_s == pytest.approx(0.2)


def test_neither_a_scrape_in_progress_nor_one_that_failed_is_hastened() -> None:
    scraped = Scraped(USUAL_S)
    assert scraped.schedule.hasten(scraped.now_s) is None
    scraped.settle()
    scraped.schedule.started(scraped.due_s)
    assert scraped.schedule.hasten(scraped.due_s) is None
    scraped.schedule.failed(scraped.due_s)
    assert scraped.schedule.hasten(scraped.due_s) is None


def test_the_tracker_reports_an_endpoint_that_has_outrun_its_scrape() -> None:
    """As many requests as it had, and sixteen at least."""
    tracker, reported = InFlightTracker(), list[Endpoint]()
    tracker.on_outran_scrape = reported.append
    where = endpoint(1)
    sent: list[CountedRequest] = []
    while not reported:
        sent.append(begin(tracker, where, 10, 10))
    assert len(sent) == MAX_UNSCRAPED_BURST
    assert reported == [where]


@given(
    pages=st.lists(
        st.tuples(
            st.floats(0.0, 5.0),
            st.integers(0, 10_000),
            st.integers(0, 10_000),
            st.floats(0.0, 1.0),
            st.integers(0, 100),
            st.booleans(),
        ),
        max_size=40,
    ),
    longest_s=st.floats(0.01, 3.0),
    share=st.floats(1e-6, 1.0),
)
def test_no_page_leaves_the_limits(
    pages: list[tuple[float, int, int, float, int, bool]], longest_s: float, share: float
) -> None:
    """Whatever a server reports, however slowly, its interval is between the two settings."""
    scraped = Scraped(CHEAP_S, intervals=ScrapeIntervals(0.1, longest_s, share))
    for page_s, running, queue_depth, usage, in_flight, fails in pages:
        scraped.where.in_flight.requests = in_flight
        before_s = scraped.due_s
        if fails:
            scraped.schedule.started(before_s)
            scraped.due_s = scraped.schedule.failed(before_s + page_s)
            assert scraped.due_s >= before_s + page_s + 1.0
            continue
        scraped.scrape(page_s=page_s, running=running, queue_depth=queue_depth, kv_cache_usage=usage)
        assert 0.1 <= scraped.interval_s <= max(0.1, longest_s)
        assert before_s + 0.1 * (1 - JITTER) <= scraped.due_s
        assert scraped.due_s <= max(before_s + page_s, before_s + max(0.1, longest_s) * (1 + JITTER))
