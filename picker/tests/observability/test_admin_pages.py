"""The pages of the admin address, and the decisions in the log."""

import logging

import pytest
from exchange_conversation import assigned
from fleet import endpoint
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.observability.admin import admin_app, endpoint_state
from picker.observability.decision_log import DecisionLog
from picker.rejection import Rejection, RejectReason
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import RequestInfo
from picker.requestcontrol.request_observer import RejectedRequest
from starlette.testclient import TestClient
from structlog.testing import capture_logs
from watched import served


def client(*, ready: bool = True) -> TestClient:
    scraped = endpoint(1, requests=2, queue_depth=3, kv=0.5)
    scraped.scrape_interval_s, scraped.page_s = 0.4, 0.02
    state = endpoint_state("default/a", scraped, 1.5, PrefixIndex(64))
    return TestClient(admin_app(lambda: ready, lambda: [state]))


def test_health_follows_readiness() -> None:
    assert client().get("/healthz").status_code == 200
    assert client(ready=False).get("/healthz").status_code == 503


def test_the_endpoints_are_shown_with_their_load_and_metrics() -> None:
    [shown] = client().get("/endpoints").json()
    assert shown["address"] == "10.0.0.1:8000"
    assert (shown["in_flight_requests"], shown["queue_depth"], shown["kv_cache_usage"]) == (2, 3, 0.5)
    assert (shown["metrics_age_s"], shown["scrape_interval_s"], shown["page_s"]) == (1.5, 0.4, 0.02)


def test_metrics_are_in_prometheus_form() -> None:
    assert "# TYPE" in client().get("/metrics").text


def test_the_log_level_can_be_set_and_an_unknown_one_is_rejected() -> None:
    before = logging.getLogger().level
    try:
        assert client().put("/log-level", content="debug").status_code == 200
        assert logging.getLogger().isEnabledFor(logging.DEBUG)
        rejected = client().put("/log-level", content="loud")
        assert (rejected.status_code, "debug, info, warning, error" in rejected.text) == (400, True)
    finally:
        logging.getLogger().setLevel(before)


REJECTED = RejectedRequest(
    Rejection(RejectReason.SATURATED, "busy"),
    RequestInfo(request_id="id-1"),
    "n/p",
    "DEFAULT",
    0,
    "m",
    10,
    0,
    0,
)


def logged(request: InFlightRequest | RejectedRequest, level: int) -> list[object]:
    """The log lines of a decision."""
    logger = logging.getLogger("picker.observability.decision_log")
    before = logger.level
    logger.setLevel(level)
    try:
        with capture_logs() as logs:
            if isinstance(request, RejectedRequest):
                DecisionLog().rejected(request, None)
            else:
                DecisionLog().scheduled(request, served("a", [endpoint(1)]))
        return list(logs)
    finally:
        logger.setLevel(before)


def test_a_decision_is_logged_at_debug_with_the_requests_id() -> None:
    request = assigned()
    request.info = RequestInfo(request_id="id-1")
    [line] = logged(request, logging.DEBUG)
    assert isinstance(line, dict)
    assert (line["event"], line["request_id"], line["endpoints"]) == (
        "request.scheduled", "id-1", "10.0.0.1:8000,10.0.0.2:8000",
    )  # fmt: skip


def test_a_rejection_is_logged_with_its_reason() -> None:
    [line] = logged(REJECTED, logging.DEBUG)
    assert isinstance(line, dict)
    assert (line["event"], line["status"], line["reason"]) == ("request.rejected", 429, "saturated")


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_above_debug_no_decision_is_logged(level: int) -> None:
    assert logged(assigned(), level) == []
