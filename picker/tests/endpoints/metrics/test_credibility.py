"""Checks of reported load; virtual time, a scrape every 0.2 s."""

from random import Random

import pytest
from fleet import begin, endpoint, request
from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.load.prefill_tracker import PrefillCounters
from picker.endpoints.metrics.credibility import CONTRADICTED_AFTER_S, MISSING_AFTER_S, STALLED_BLIND_S, STALLED_S
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.requestcontrol.in_flight_request import InFlightRequest, schedule
from picker.resources.inference import RoutingStrategy
from picker.scheduling.saturation import shed
from picker.scheduling.scheduler import Scheduler
from structlog.testing import capture_logs

INTERVAL_S = 0.2


def scrapes(tracker: InFlightTracker, where: Endpoint, from_s: float, seconds: float, **says: object) -> float:
    """Scrape the same page repeatedly. Returns the time after the last scrape."""
    now_s = from_s
    while now_s < from_s + seconds:
        metrics = ServerMetrics(
            **{"queue_depth": 0, "running": 0, "kv_cache_usage": 0.0, "block_size_tokens": 16, "kv_blocks": 10_000}
            | {"scraped_at_s": now_s, "in_flight_at_scrape": where.in_flight.requests}
            | says  # type: ignore[arg-type]
        )
        tracker.scraped(where, metrics)
        now_s += INTERVAL_S
    return now_s


def test_requests_that_a_server_does_not_report_are_missing_after_a_time() -> None:
    tracker, where = InFlightTracker(), endpoint(1, scraped=False)
    requests = [begin(tracker, where, 100, 100) for _ in range(20)]
    now_s = scrapes(tracker, where, 0.0, MISSING_AFTER_S / 2)
    assert where.credibility.missing == 0
    with capture_logs() as logs:
        scrapes(tracker, where, now_s, 2 * CONTRADICTED_AFTER_S)
    assert where.credibility.missing == 20
    assert where.credibility.contradicted
    assert [line["event"] for line in logs] == ["endpoint.contradicts_ledger"]
    for counted in requests:
        counted.uncount(60.0)
    scrapes(tracker, where, 60.0, INTERVAL_S)
    assert (where.credibility.missing, where.credibility.contradicted) == (0, False)


@pytest.mark.parametrize("running", [10, 20, 60])
def test_an_honest_server_is_never_contradicted(running: int) -> None:
    """Some requests are on their way, and foreign requests are there."""
    tracker, where = InFlightTracker(), endpoint(1, scraped=False)
    for _ in range(20):
        begin(tracker, where, 100, 100)
    scrapes(tracker, where, 0.0, 20.0, running=running)
    assert where.credibility.missing == 0


def test_requests_that_generate_nothing_need_not_be_counted() -> None:
    tracker, where = InFlightTracker(), endpoint(1, scraped=False)
    for _ in range(50):
        begin(tracker, where, 0, 0)
    scrapes(tracker, where, 0.0, 20.0)
    assert where.credibility.missing == 0


@pytest.mark.parametrize("lie", ["idle", "idle and without a cache", "idle and fast"])
def test_a_server_that_falsely_reports_idle_gets_about_its_share(lie: str) -> None:
    """Five servers report 50 requests each, and one of them reports that it is idle."""
    tracker, rng = InFlightTracker(), Random(1)
    fleet = [endpoint(number, scraped=False) for number in range(5)]
    liar = fleet[0]
    prefixes = PrefixIndex(64)
    scheduler = Scheduler(RoutingStrategy.DEFAULT, prefixes, rng)
    sent: list[InFlightRequest] = []
    picks: list[bool] = []
    for step in range(3000):
        now_s = 0.05 * step
        if step % 4 == 0:
            for item in fleet:
                there = item.in_flight.requests
                honest = {
                    "running": min(there, 40),
                    "queue_depth": max(0, there - 40),
                    "kv_cache_usage": min(1.0, there / 50),
                }
                says: dict[str, object] = {} if item is liar else dict(honest)
                if item is liar and lie == "idle and without a cache":
                    says = {"kv_blocks": None, "block_size_tokens": None}
                scrapes(tracker, item, now_s, INTERVAL_S / 2, **says)
        for item in fleet:
            item.speed.learn(0.4, 0.02 if item is liar and lie == "idle and fast" else 0.4, now_s)
        created = schedule(request(tokens=1000), fleet, scheduler, prefixes, tracker, now_s)
        assert isinstance(created, InFlightRequest)
        picks.append(created.endpoint is liar)
        created.prompt_computed()
        sent.append(created)
        if len(sent) > 250:
            sent.pop(rng.randrange(len(sent))).end(now_s)
    assert sum(picks[1500:]) / 1500 < 0.35


LOAD = {"running": 8, "queue_depth": 30, "kv_cache_usage": 0.95}


@pytest.mark.parametrize(
    ("counters", "accepted_s"),
    [({"progress": PrefillCounters(5.0, 1.0, 500.0), "generation_tokens": 7.0}, STALLED_S), ({}, STALLED_BLIND_S)],
)
def test_a_load_that_does_not_move_is_accepted_for_a_bounded_time(
    counters: dict[str, object], accepted_s: float
) -> None:
    """All requests were aborted at once, and the engine makes no step that would write its gauges."""
    tracker, where = InFlightTracker(), endpoint(1, scraped=False)
    now_s = scrapes(tracker, where, 0.0, accepted_s - 1, **LOAD, **counters)
    assert shed(-1, [where], now_s)
    now_s = scrapes(tracker, where, now_s, 2.0, **LOAD, **counters)
    assert not shed(-1, [where], now_s)
    now_s = scrapes(tracker, where, now_s, 20.0, **LOAD, **counters)
    metrics = where.metrics
    assert metrics is not None
    assert (metrics.running, metrics.queue_depth, metrics.foreign_requests) == (0, 0, 0)


def test_a_foreign_load_that_moves_a_counter_is_accepted() -> None:
    """Long responses move the generated tokens and nothing else."""
    tracker, where = InFlightTracker(), endpoint(1, scraped=False)
    for second in range(100):
        scrapes(tracker, where, second, INTERVAL_S, **LOAD, generation_tokens=float(second))
    assert where.metrics is not None
    assert where.metrics.running == 8


@pytest.mark.parametrize(("tokens_of_each", "failing"), [(0, True), (1, False), (50, False)])
def test_responses_without_tokens_count_as_failures(tokens_of_each: int, failing: bool) -> None:
    """A stream that begins with 200 and contains an error event: no status shows the error."""
    tracker, where = InFlightTracker(), endpoint(1, scraped=False)
    for number in range(100):
        counted = begin(tracker, where, 100, 100)
        counted.count_response(failed=False)
        counted.uncount(0.2 * number)
        scrapes(tracker, where, 0.2 * number, INTERVAL_S / 2, generation_tokens=float(number * tokens_of_each))
    assert (where.failing > 0.3) == failing
