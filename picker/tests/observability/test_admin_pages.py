"""What operators see: the admin address, and the decisions in the log."""

import logging

import pytest
from exchange_conversation import FakeDesk, Seat
from fleet import endpoint
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.observability.admin import admin_app, endpoint_state
from picker.observability.decision_log import LoggedDesk
from picker.requestcontrol.interfaces import Wanted
from picker.requestcontrol.rejection import Rejection
from picker.requestcontrol.request_body import ParsedBody
from starlette.testclient import TestClient
from structlog.testing import capture_logs


def client(*, ready: bool = True) -> TestClient:
    state = endpoint_state("default/a", endpoint(1, requests=2, queue_depth=3, kv=0.5), 1.5, PrefixIndex(64))
    return TestClient(admin_app(lambda: ready, lambda: [state]))


def test_health_follows_readiness() -> None:
    assert client().get("/healthz").status_code == 200
    assert client(ready=False).get("/healthz").status_code == 503


def test_the_endpoints_are_shown_with_what_is_known_of_them() -> None:
    [shown] = client().get("/endpoints").json()
    assert shown["address"] == "10.0.0.1:8000"
    assert (shown["in_flight_requests"], shown["queue_depth"], shown["kv_cache_usage"]) == (2, 3, 0.5)
    assert shown["metrics_age_s"] == 1.5


def test_metrics_are_in_prometheus_form() -> None:
    assert "# TYPE" in client().get("/metrics").text


def test_the_log_level_changes_while_running_and_an_unknown_one_is_refused() -> None:
    before = logging.getLogger().level
    try:
        assert client().put("/log-level", content="debug").status_code == 200
        assert logging.getLogger().isEnabledFor(logging.DEBUG)
        refused = client().put("/log-level", content="loud")
        assert (refused.status_code, "debug, info, warning, error" in refused.text) == (400, True)
    finally:
        logging.getLogger().setLevel(before)


WANTED = Wanted("g/n/p", ParsedBody("m", b"", b"", 10, 20), None, request_id="id-1")


def decided(answer: Seat | Rejection, level: int) -> list[object]:
    """The lines that a decision writes."""
    logger = logging.getLogger("picker.observability.decision_log")
    before = logger.level
    logger.setLevel(level)
    try:
        with capture_logs() as logs:
            assert LoggedDesk(FakeDesk(answer)).assign(WANTED) is answer
        return list(logs)
    finally:
        logger.setLevel(before)


def test_a_decision_is_told_at_debug_under_the_requests_id() -> None:
    [line] = decided(Seat(), logging.DEBUG)
    assert isinstance(line, dict)
    assert (line["event"], line["request_id"], line["endpoints"]) == (
        "request.assigned", "id-1", "10.0.0.1:8000,10.0.0.2:8000",
    )  # fmt: skip


def test_a_refusal_is_told_with_its_reason() -> None:
    [line] = decided(Rejection(429, "saturated", "busy"), logging.DEBUG)
    assert isinstance(line, dict)
    assert (line["event"], line["status"], line["reason"]) == ("request.refused", 429, "saturated")


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_above_debug_nothing_is_told(level: int) -> None:
    assert decided(Seat(), level) == []
