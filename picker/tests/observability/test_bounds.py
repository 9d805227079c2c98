"""Limits on what the picker keeps and shows, and on the pieces of large responses."""

import asyncio
import sys
from collections.abc import Iterable, Iterator

import msgspec
import pytest
from fleet import endpoint
from hypothesis import given
from hypothesis import strategies as st
from picker.bounded_text import MAX_CHARACTERS
from picker.extproc.headers import pick_request
from picker.extproc.messages import RequestHeaders
from picker.observability.decisions import SHOWN_CANDIDATES
from picker.observability.model_labels import DECLARED_BYTES, MOST_UNDECLARED, OTHER, UNDECLARED_BYTES, ModelLabels
from picker.observability.piecewise import MAX_ANSWER_BYTES, SAMPLES, Turns, json_list, metrics_page
from picker.observability.recent_decisions import MAX_ENDPOINTS
from picker.requestcontrol.request_body import ParsedBody
from picker.resources.inference import RoutingStrategy
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from watched import Watched, served

LONG = 32 << 10
MAX_PIECE_BYTES = 256 << 10
"""Of a response. A smaller piece takes a few milliseconds."""


def registry(watched: Watched) -> CollectorRegistry:
    found = CollectorRegistry()
    found.register(watched.metrics)
    return found


def pieces(watched: Watched) -> list[bytes]:
    return list(metrics_page(registry(watched), "")[0])


def busy(characters: int, models: int = 100, character: str = "x") -> Watched:
    """A picker with eight pools of 25 endpoints, and requests to `models` models in each."""
    watched = Watched(kept=1000)
    watched.serve(*(served(f"p{pool}", [endpoint(number) for number in range(25)]) for pool in range(8)))
    for number in range(models):
        for pool in range(8):
            request = watched.scheduled(f"{number:04}" + character * characters, pool=f"p{pool}")
            watched.respond(request, 200)
            watched.end(request)
    return watched


@pytest.mark.parametrize("character", ["x", '"', "\U0001f600"])
@pytest.mark.parametrize("characters", [40, 252, LONG])
def test_a_metrics_page_is_bounded_for_any_model_names(characters: int, character: str) -> None:
    page = pieces(busy(characters, character=character))
    assert sum(map(len, page)) < 8 << 20
    assert max(map(len, page)) < MAX_PIECE_BYTES


def test_the_pieces_of_a_page_are_the_whole_page() -> None:
    watched = busy(10, models=20)
    assert b"".join(pieces(watched)) == generate_latest(registry(watched))
    parts, content_type = metrics_page(registry(watched), "application/openmetrics-text; version=1.0.0")
    assert b"".join(parts) == generate_openmetrics(registry(watched), version="1.0.0")
    assert content_type.startswith("application/openmetrics-text")


def test_a_piece_of_a_page_has_few_samples() -> None:
    assert max(piece.count(b"\n") for piece in pieces(busy(40))) <= SAMPLES + 2


@given(st.lists(st.tuples(st.text(), st.text(), st.booleans()), max_size=50), st.integers(1, 4000))
def test_labels_are_bounded_in_number_and_bytes(names: list[tuple[str, str, bool]], times: int) -> None:
    labels = ModelLabels()
    found = {labels.of(model * times, target * times, declared=declared) for model, target, declared in names}
    assert all(len(label) <= MAX_CHARACTERS for pair in found for label in pair)
    assert sum(len(label.encode()) for pair in found for label in pair) < DECLARED_BYTES + UNDECLARED_BYTES + 2048


def test_a_label_has_no_lone_surrogate() -> None:
    assert ModelLabels().of("m\ud800", "t\udc00", declared=False) == ("m?", "t?")


def test_declared_models_have_labels_beside_many_undeclared_ones() -> None:
    labels = ModelLabels()
    made_up = {labels.of(f"{number}", f"{number}", declared=False) for number in range(1000)}
    assert len(made_up) == MOST_UNDECLARED + 1
    assert labels.of("declared", "target", declared=True) == ("declared", "target")
    declared = {labels.of(f"d{number}" * 50, "t", declared=True) for number in range(10_000)}
    assert (OTHER, OTHER) in declared
    assert len(declared) < 400


def test_a_kept_decision_is_bounded_and_has_no_query() -> None:
    watched = Watched()
    text = "k" * LONG
    body = ParsedBody(text, prompt=b"x", salt=b"", prompt_tokens=1, output_tokens=1)
    pool = str(watched.pools[0].pool.name)
    for subset in (None, frozenset[str]()):
        for path in ("/v1/completions?key=" + text, text):
            fields = {":path": path, "x-request-id": text, "traceparent": text}
            watched.director.assign(pick_request(RequestHeaders(fields, False, subset, None, pool), body, 10))
    assert len(watched.decisions) == 4
    for decision in watched.decisions:
        request, info = decision.request, decision.request.info
        kept = (request.requested_model, info.request_id, info.trace, info.path)
        assert all(len(text or "") <= MAX_CHARACTERS for text in kept)
        assert "?" not in info.path
    assert all(len(msgspec.json.encode(shown)) < 4096 for shown in watched.newest())


def test_kept_decisions_over_many_endpoints_are_fewer() -> None:
    watched = Watched(kept=1000)
    watched.serve(served("a", [endpoint(number) for number in range(200)], RoutingStrategy.LEAST_REQUEST))
    for _ in range(1000):
        watched.scheduled()
    assert len(watched.decisions) == 1000
    watched.serve(served("a", [endpoint(number) for number in range(3000)], RoutingStrategy.LEAST_REQUEST))
    for _ in range(100):
        watched.scheduled()
    snapshots = [decision.snapshot for decision in watched.decisions]
    kept = sum(len(snapshot.endpoints) for snapshot in snapshots if snapshot is not None)
    assert MAX_ENDPOINTS - 3000 < kept <= MAX_ENDPOINTS


def test_a_decision_over_many_endpoints_shows_the_best() -> None:
    watched = Watched()
    watched.serve(served("a", [endpoint(number) for number in range(1000)], RoutingStrategy.LEAST_REQUEST))
    watched.scheduled()
    [decision] = watched.newest()
    assert len(decision.candidates) == SHOWN_CANDIDATES
    assert decision.candidates[0].rank == 1


def test_a_list_ends_at_the_bound_and_is_valid_json() -> None:
    item = msgspec.json.encode("x" * 10_000)
    text = b"".join(json_list(item for _ in range(10_000)))
    assert len(text) <= MAX_ANSWER_BYTES + 16
    assert set(msgspec.json.decode(text)) == {"x" * 10_000}
    assert msgspec.json.decode(b"".join(json_list(()))) == []


async def test_the_loop_runs_between_two_pieces() -> None:
    ran = 0

    async def pick() -> None:
        nonlocal ran
        while True:
            ran += 1
            await asyncio.sleep(0)

    def made() -> Iterator[int]:
        for _ in range(100):
            yield ran

    other = asyncio.create_task(pick())
    seen = [int(piece) async for piece in Turns().pieces(b"%d" % count for count in made())]
    other.cancel()
    assert len(set(seen)) == 100


async def test_concurrent_responses_take_turns() -> None:
    turns, order = Turns(), list[str]()

    def made(name: str) -> Iterable[bytes]:
        for _ in range(5):
            order.append(name)
            yield b""

    async def read(name: str) -> None:
        async for _ in turns.pieces(made(name)):
            pass

    await asyncio.gather(read("a"), read("b"))
    assert order != sorted(order)


def test_a_removed_pool_has_no_counters_and_its_models_keep_theirs() -> None:
    watched = Watched()
    for number in range(300):
        watched.serve(served(f"p{number}", watched.endpoints))
        watched.assign("m", pool=f"p{number}", subset=frozenset())
        request = watched.scheduled("m", pool=f"p{number}")
        watched.end(request)
        watched.requests.counters.keep({f"default/p{number}"})
    assert len(watched.requests.counters.unsettled()) == 2
    assert len(watched.requests.counters.rejections) == 1
    assert watched.value("inference_objective_request_total", model_name="m") == 600
    assert watched.value("inference_objective_running_requests", model_name="m") == 0
    assert watched.value("inference_extension_scheduler_attempts_total", status="success") == 300


def test_a_request_that_outlives_its_pool_is_counted_when_it_ends() -> None:
    watched = Watched()
    request = watched.scheduled()
    watched.serve()
    assert watched.value("inference_objective_running_requests", model_name="m") == 1
    watched.end(request)
    assert watched.value("inference_objective_running_requests", model_name="m") == 0
    assert watched.value("inference_objective_request_duration_seconds_count", model_name="m") == 1


def test_memory_of_long_names_is_bounded() -> None:
    watched = busy(LONG)
    requests = [decision.request for decision in watched.decisions]
    kept = sum(sys.getsizeof(request.requested_model) + sys.getsizeof(request.info.path) for request in requests)
    labels = sum(sys.getsizeof(counters.model) for counters in watched.requests.counters.unsettled())
    assert kept + labels < 2 << 20
