"""What an exchange reports to the director besides the request to schedule."""

from exchange_conversation import FakeDirector, body, headers, new_exchange
from picker.rejection import Rejection, RejectReason


def test_only_rejections_of_the_exchange_itself_are_reported() -> None:
    """The director reports its own rejections."""
    early = FakeDirector()
    exchange = new_exchange(early, max_body_bytes=10)
    exchange.receive(headers(content_length="11"))
    saturated = FakeDirector(Rejection(RejectReason.SATURATED, "Busy."))
    exchange = new_exchange(saturated)
    exchange.receive(headers())
    exchange.receive(body())
    assert [rejection.reason for rejection in early.rejections] == [RejectReason.BODY_TOO_LARGE]
    assert saturated.rejections == []


def test_a_request_has_the_facts_for_logs_and_traces() -> None:
    director = FakeDirector()
    exchange = new_exchange(director)
    exchange.receive(headers(x_request_id="id-1", traceparent="00-a-b-01"))
    exchange.receive(body(b'{"model": "m"}'))
    [request] = director.requests
    info = request.info
    assert (info.request_id, info.trace, info.path, info.body_bytes) == (
        "id-1", "00-a-b-01", "/v1/chat/completions", 14,
    )  # fmt: skip
