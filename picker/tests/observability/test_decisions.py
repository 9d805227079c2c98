"""Kept decisions, and the pages that show them."""

from fleet import endpoint
from picker.observability.admin_pages import pages
from picker.observability.decisions import Decision, newest
from picker.observability.pool_states import pool_states
from starlette.applications import Starlette
from starlette.testclient import TestClient
from watched import Watched


def kept(
    watched: Watched, *, limit: int = 10, request_id: str | None = None, pool: str | None = None
) -> list[Decision]:
    return list(newest(watched.decisions, watched.now_s, limit=limit, request_id=request_id, pool=pool))


def test_a_decision_shows_the_state_of_every_endpoint_at_its_time() -> None:
    watched = Watched()
    request = watched.scheduled()
    watched.endpoints[0].in_flight.requests = 7
    [decision] = kept(watched)
    best, other = decision.candidates
    assert (best.rank, best.server, best.in_flight_requests, best.cached_tokens) == (1, request.endpoint.server, 0, 0)
    assert (other.rank, other.queue_depth, other.kv_cache_usage) == (2, 3, 0.25)
    assert best.cost is not None
    assert other.cost is not None
    assert best.cost < other.cost


def test_the_costs_of_a_decision_do_not_change_later() -> None:
    watched = Watched()
    watched.scheduled()
    before = kept(watched)[0].candidates
    for _ in range(5):
        watched.scheduled()
    assert kept(watched)[-1].candidates == before


def test_the_newest_decisions_come_first_and_the_oldest_are_discarded() -> None:
    watched = Watched(kept=3)
    for number in range(5):
        watched.scheduled(f"m{number}")
    assert [decision.model for decision in kept(watched)] == ["m4", "m3", "m2"]
    assert [decision.model for decision in kept(watched, limit=1)] == ["m4"]


def test_decisions_are_found_by_prefix_of_the_request_id_and_by_pool() -> None:
    watched = Watched()
    watched.scheduled()
    assert len(kept(watched, request_id="id", pool="default/a")) == 1
    assert kept(watched, request_id="other") == kept(watched, pool="default/b") == []


def test_a_decision_shows_the_outcome_of_its_request() -> None:
    watched = Watched()
    request = watched.scheduled()
    assert kept(watched)[0].outcome == "in flight"
    watched.now_s = 0.5
    watched.respond(request, 200)
    watched.now_s = 2.0
    watched.end(request)
    [ended] = kept(watched)
    assert (ended.outcome, ended.status, ended.first_byte_s, ended.duration_s) == ("ended", 200, 0.5, 2.0)


def test_a_rejected_request_shows_the_reason_and_the_load() -> None:
    watched = Watched()
    watched.assign(subset=frozenset())
    [decision] = kept(watched)
    assert (decision.outcome, decision.reason, decision.status) == ("rejected", "subset-empty", 503)
    assert [(candidate.server, candidate.cost, candidate.queue_depth) for candidate in decision.candidates] == [
        ("qwen-1", None, 0), ("qwen-2", None, 3),
    ]  # fmt: skip


def test_an_unreachable_endpoint_is_shown_with_its_lower_cost() -> None:
    watched = Watched(endpoints=[endpoint(1, refused=True), endpoint(2, requests=9)])
    watched.scheduled()
    best, unreachable = kept(watched)[0].candidates
    assert (best.server, unreachable.server) == ("qwen-2", "qwen-1")
    assert (unreachable.cost or 0.0) < (best.cost or 0.0)


def client(watched: Watched) -> TestClient:
    routes = pages(
        lambda: pool_states(watched.pools, watched.requests.counters, watched.now_s),
        lambda: watched.decisions,
        watched.clock,
    )
    return TestClient(Starlette(routes=routes))


def test_the_admin_address_shows_decisions_as_json() -> None:
    watched = Watched()
    watched.scheduled()
    [shown] = client(watched).get("/decisions?limit=5&request_id=id-1").json()
    assert (shown["pool"], shown["strategy"], shown["model"]) == ("default/a", "DEFAULT", "m")
    assert client(watched).get("/decisions?limit=many").status_code == 400


def test_the_admin_address_shows_pools_with_their_counts_and_endpoints() -> None:
    watched = Watched()
    watched.end(watched.scheduled())
    watched.scheduled()
    watched.assign(subset=frozenset())
    [shown] = client(watched).get("/pools").json()
    assert (shown["decisions"], shown["running"], shown["rejected"], shown["prompt_tokens"]) == (2, 1, 1, 2000)
    assert [state["server"] for state in shown["endpoints"]] == ["qwen-1", "qwen-2"]
