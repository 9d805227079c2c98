"""Which headers of a client's request have an effect: names, trust, and hostile values."""

from math import isfinite

import pytest
from exchange_conversation import FakeDirector, body, headers, new_exchange
from hypothesis import example, given
from hypothesis import strategies as st
from picker.bounded_text import MAX_CHARACTERS
from picker.extproc.codec import decode, kept_headers
from picker.extproc.messages import HeadersReply, RequestHeaders
from picker.extproc.read_headers import ReadHeaders
from picker.protocol import (
    FAIRNESS_ID,
    LEGACY_FAIRNESS_ID,
    LEGACY_MODEL_REWRITE,
    LEGACY_OBJECTIVE,
    LEGACY_SLO_TPOT_MS,
    LEGACY_SLO_TTFT_MS,
    MODEL_REWRITE,
    OBJECTIVE,
    SLO_TPOT_MS,
    SLO_TTFT_MS,
)
from picker.scheduling.latency_slo import LatencySlo
from wire_messages import headers_message

PAIRS = [(OBJECTIVE, LEGACY_OBJECTIVE), (FAIRNESS_ID, LEGACY_FAIRNESS_ID), (MODEL_REWRITE, LEGACY_MODEL_REWRITE)]
ALL = frozenset(name for pair in PAIRS for name in pair)


def values(read: ReadHeaders, given: dict[str, str]) -> list[str | None]:
    return [read.objective_of(given), read.flow_of(given), read.model_rewrite_of(given)]


@pytest.mark.parametrize(("name", "legacy"), PAIRS)
def test_the_present_name_wins(name: str, legacy: str) -> None:
    read = ReadHeaders.of(ALL)
    assert "new" in values(read, {legacy: "old", name: "new"})
    assert "old" in values(read, {legacy: "old"})


@pytest.mark.parametrize("legacy", [legacy for _, legacy in PAIRS])
def test_earlier_names_can_be_turned_off(legacy: str) -> None:
    assert values(ReadHeaders.of(ALL, legacy=False), {legacy: "old"}) == [None, None, None]


@pytest.mark.parametrize(("name", "legacy"), PAIRS)
def test_each_name_is_trusted_separately(name: str, legacy: str) -> None:
    """The proxy in front of the gateway may set one, and leave the other as the client wrote it."""
    assert values(ReadHeaders.of({legacy}), {name: "client's"}) == [None, None, None]
    assert values(ReadHeaders.of({name}), {legacy: "client's"}) == [None, None, None]


def test_a_session_replaces_a_missing_fairness_id() -> None:
    """With its header's name, so that no session is the fairness id of another client."""
    read = ReadHeaders.of({FAIRNESS_ID}, ["x-chat"], agents=True)
    sessions = {"session_id": "codex", "x-chat": "chat"}
    assert read.flow_of({**sessions, FAIRNESS_ID: "tenant"}) == "tenant"
    assert read.flow_of({**sessions, "x-claude-code-session-id": "claude"}) == "x-claude-code-session-id=claude"
    assert read.flow_of(sessions) == "session_id=codex"
    assert read.flow_of({"x-chat": "chat"}) == "x-chat=chat"
    assert read.flow_of({}) is None


def test_sessions_have_no_effect_by_default() -> None:
    """A client that invents sessions would get as many turns."""
    assert ReadHeaders.of({FAIRNESS_ID}).flow_of({"session-id": "a"}) is None


def test_the_header_of_a_session_is_kept_whatever_its_name() -> None:
    message = headers_message(x_chat="chat")
    assert "x-chat" not in decoded(message, ())
    assert decoded(message, ("x-chat",))["x-chat"] == "chat"


def decoded(message: bytes, more: tuple[str, ...]) -> dict[str, str]:
    found = decode(message, None, None, kept_headers(*more))
    assert isinstance(found, RequestHeaders)
    return dict(found.headers)


def test_the_length_of_a_flow_is_bounded() -> None:
    flow = ReadHeaders.of(sessions=["x-chat"]).flow_of({"x-chat": "x" * 60_000})
    assert flow is not None
    assert len(flow) == len("x-chat=") + MAX_CHARACTERS


def test_a_longer_name_than_that_of_any_model_is_no_rewrite() -> None:
    read = ReadHeaders.of(ALL)
    assert read.model_rewrite_of({MODEL_REWRITE: "m" * MAX_CHARACTERS}) == "m" * MAX_CHARACTERS
    assert read.model_rewrite_of({MODEL_REWRITE: "m" * (MAX_CHARACTERS + 1)}) is None


def test_a_request_with_a_rewrite_gets_its_response_headers() -> None:
    """The model's name is restored in the response."""
    for trusted, sampled in ((ALL, True), (frozenset[str](), False)):
        exchange = new_exchange(FakeDirector(), read_headers=ReadHeaders.of(trusted))
        [reply] = exchange.receive(headers(x_llm_d_model_name_rewrite="other"))
        assert isinstance(reply, HeadersReply)
        assert (reply.mode is not None) is sampled


def test_requested_latencies_reach_the_director_in_seconds() -> None:
    director = FakeDirector()
    exchange = new_exchange(director)
    exchange.receive(headers(x_llm_d_slo_ttft_ms="250", x_slo_tpot_ms="12.5"))
    exchange.receive(body())
    assert director.requests[0].slo == LatencySlo(0.25, 0.0125)


def test_the_present_name_of_a_latency_wins() -> None:
    given = {SLO_TTFT_MS: "100", LEGACY_SLO_TTFT_MS: "200", LEGACY_SLO_TPOT_MS: "30"}
    assert ReadHeaders.of().slo_of(given) == LatencySlo(0.1, 0.03)
    assert ReadHeaders.of(legacy=False).slo_of(given) == LatencySlo(0.1, None)


HOSTILE = ["", "0", "-5", "nan", "inf", "1e999", "1_000", " 5", "5 ", "0x10", "٥", "5ms", "1e-999", "9" * 60_000]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_latency_that_is_no_positive_number_is_ignored(value: str) -> None:
    assert ReadHeaders.of().slo_of({SLO_TTFT_MS: value, SLO_TPOT_MS: value}) is None


@given(st.text() | st.floats().map(str) | st.integers().map(str))
@example("1e15")
def test_any_latency_is_a_positive_number_or_ignored(value: str) -> None:
    slo = ReadHeaders.of().slo_of({SLO_TTFT_MS: value})
    assert slo is None or (slo.ttft_s is not None and isfinite(slo.ttft_s) and slo.ttft_s > 0)
