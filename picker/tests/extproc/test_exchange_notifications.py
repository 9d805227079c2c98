"""What an exchange tells of its request besides the pick: to those who count, log and trace."""

from exchange_conversation import FakeDesk, body, exchange, headers
from picker.requestcontrol.rejection import Reason, Rejection


def test_only_what_no_desk_was_asked_about_is_told_as_turned_away() -> None:
    """The desk knows of its own refusals."""
    early = FakeDesk()
    talk = exchange(early, max_body_bytes=10)
    talk.receive(headers(content_length="11"))
    own = FakeDesk(Rejection(429, "saturated", "Busy."))
    talk = exchange(own)
    talk.receive(headers())
    talk.receive(body())
    assert ([each.reason for each in early.turned], own.turned) == ([Reason.BODY_TOO_LARGE], [])


def test_logs_and_traces_get_what_they_need() -> None:
    desk = FakeDesk()
    talk = exchange(desk)
    talk.receive(headers(x_request_id="id-1", traceparent="00-a-b-01"))
    talk.receive(body(b'{"model": "m"}'))
    [wanted] = desk.asked
    assert (wanted.request_id, wanted.trace, wanted.path, wanted.body_bytes) == (
        "id-1", "00-a-b-01", "/v1/chat/completions", 14,
    )  # fmt: skip
