"""What an exchange tells of its request besides the pick: to those who count, log and trace."""

from exchange_conversation import FakeDirector, body, exchange, headers
from picker.rejection import Rejection, RejectReason


def test_only_what_no_desk_was_asked_about_is_told_as_turned_away() -> None:
    """The director knows of its own refusals."""
    early = FakeDirector()
    talk = exchange(early, max_body_bytes=10)
    talk.receive(headers(content_length="11"))
    own = FakeDirector(Rejection(RejectReason.SATURATED, "Busy."))
    talk = exchange(own)
    talk.receive(headers())
    talk.receive(body())
    assert ([each.reason for each in early.rejections], own.rejections) == ([RejectReason.BODY_TOO_LARGE], [])


def test_logs_and_traces_get_what_they_need() -> None:
    director = FakeDirector()
    talk = exchange(director)
    talk.receive(headers(x_request_id="id-1", traceparent="00-a-b-01"))
    talk.receive(body(b'{"model": "m"}'))
    [request] = director.requests
    info = request.info
    assert (info.request_id, info.trace, info.path, info.body_bytes) == (
        "id-1", "00-a-b-01", "/v1/chat/completions", 14,
    )  # fmt: skip
