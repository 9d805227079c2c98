"""Whether requests kept the time to the first token that their clients asked for, as far as the picker can know."""

import pytest
from fleet import ZERO, endpoint
from msgspec.structs import replace
from picker.endpoints.endpoint import Endpoint
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.scheduling.latency_slo import LatencySlo
from watched import Watched

OUTCOMES = ("kept", "missed", "unknown")


def scrape(watched: Watched, where: Endpoint, now_s: float, first_tokens: int) -> None:
    """A scrape that shows so many first tokens since the server's start, half a second each."""
    assert where.metrics is not None
    watched.now_s = now_s
    progress = replace(ZERO, first_tokens=float(first_tokens), first_token_s=0.5 * first_tokens)
    watched.tracker.scraped(where, replace(where.metrics, progress=progress, scraped_at_s=now_s))


def outcome(ttft_s: float, *, shown_s: float | None, ended_s: float, status: int = 200) -> str:
    """Of a request at second 0. Scrapes at 0, 1, 2 ... show the first token from `shown_s` on."""
    watched = Watched(endpoints=[endpoint(1)])
    [where] = watched.endpoints
    scrape(watched, where, 0.0, 0)
    request = watched.assign(slo=LatencySlo(ttft_s))
    assert isinstance(request, InFlightRequest)
    for second in range(1, int(ended_s) + 1):
        scrape(watched, where, float(second), int(shown_s is not None and second >= shown_s))
    watched.now_s = ended_s
    watched.respond(request, status)
    watched.end(request)
    counted = {name: watched.value("inference_gateway_slo_total", type="ttft", outcome=name) for name in OUTCOMES}
    [found] = [name for name, count in counted.items() if count == 1]
    violations = watched.value("llm_d_epp_request_slo_violation_total", type="ttft")
    assert violations == (1 if found == "missed" else None)
    return found


def test_a_first_token_before_the_requested_time_is_kept() -> None:
    assert outcome(3.5, shown_s=3, ended_s=10.0) == "kept"


def test_a_first_token_after_the_requested_time_is_missed() -> None:
    assert outcome(1.5, shown_s=3, ended_s=10.0) == "missed"


def test_a_first_token_between_two_scrapes_may_be_either() -> None:
    assert outcome(2.5, shown_s=3, ended_s=10.0) == "unknown"


def test_a_response_that_ends_in_time_had_its_first_token_in_time() -> None:
    assert outcome(0.5, shown_s=None, ended_s=0.4) == "kept"


def test_a_server_that_counts_no_first_token_shows_none() -> None:
    assert outcome(1.0, shown_s=None, ended_s=5.0) == "unknown"


@pytest.mark.parametrize("status", [400, 503])
def test_an_error_is_no_first_token(status: int) -> None:
    assert outcome(3.0, shown_s=None, ended_s=0.4, status=status) == "unknown"


def test_a_time_that_ran_out_in_the_queue_is_missed() -> None:
    assert outcome(-0.1, shown_s=None, ended_s=0.4) == "missed"


def test_a_request_without_a_requested_time_is_not_counted() -> None:
    watched = Watched()
    watched.end(watched.scheduled())
    assert watched.value("inference_gateway_slo_total") is None
