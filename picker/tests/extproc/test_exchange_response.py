"""The response half of an exchange: renamed models get their names back, everything else passes untouched."""

import json
from itertools import pairwise

import pytest
from exchange_conversation import FakeDirector, answer, body, exchange, headers, response
from hypothesis import given
from hypothesis import strategies as st
from picker.extproc.messages import (
    BodyMode,
    BodyReply,
    DuplexBodyReply,
    HeadersReply,
    ModeOverride,
    Phase,
    ProtocolViolation,
    ResponseHeaders,
    Trailers,
    TrailersReply,
)

DUPLEX = BodyMode.FULL_DUPLEX_STREAMED


def test_a_renamed_model_changes_those_bytes_alone() -> None:
    """Numbers, order, spaces and escapes are the client's."""
    talk = exchange(FakeDirector(served_model="m-v2"))
    talk.receive(headers())
    [reply] = talk.receive(body(b'{ "seed": 9007199254740993, "model" : "m", "x": "\\u00e9 <&>", "y": 1e400 }'))
    assert isinstance(reply, BodyReply)
    assert reply.data == b'{ "seed": 9007199254740993, "model" : "m-v2", "x": "\\u00e9 <&>", "y": 1e400 }'
    assert ("content-length", str(len(reply.data))) in reply.changes.set_headers


def test_the_body_of_an_answer_is_asked_for_only_when_it_holds_another_name() -> None:
    """A request of the same pool whose model kept its name is left alone."""
    for served, wanted_mode in (("m-v2", BodyMode.STREAMED), (None, None)):
        talk = exchange(FakeDirector(served_model=served))
        talk.receive(headers())
        talk.receive(body())
        [reply] = talk.receive(response())
        assert isinstance(reply, HeadersReply)
        assert (reply.mode.response_body if reply.mode else None) == wanted_mode
        assert ("content-length" in reply.changes.remove_headers) == (served is not None)


@given(st.lists(st.integers(min_value=0, max_value=400), max_size=6))
def test_the_clients_name_is_restored_in_streams_split_anywhere(cuts: list[int]) -> None:
    """Also in the middle of the name."""
    events = "".join(
        f"data: {json.dumps({'id': i, 'model': 'm-v2', 'choices': [{'delta': {'content': 'model: m-v2 é'}}]})}\n\n"
        for i in range(3)
    )
    stream = (events + "data: [DONE]\n\n").encode()
    talk = exchange(FakeDirector(served_model="m-v2"))
    talk.receive(headers())
    talk.receive(body())
    talk.receive(response("text/event-stream; charset=utf-8"))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    replies = [reply for start, end in pairwise(edges) for reply in talk.receive(answer(stream[start:end]))]
    replies += talk.receive(answer(b"", end=True))
    assert len(replies) == len(edges)
    out = b"".join(reply.data or b"" for reply in replies if isinstance(reply, BodyReply))
    assert out == stream.replace(b'"model": "m-v2"', b'"model": "m"')


def test_the_clients_name_is_restored_in_a_json_answer() -> None:
    """Only what may be the name is held back until it is whole."""
    text = b'{"choices": [{"message": {"content": "\\"model\\": \\"m-v2\\""}}], "model":"m-v2"}'
    talk = exchange(FakeDirector(served_model="m-v2"))
    talk.receive(headers())
    talk.receive(body())
    talk.receive(response())
    replies = [*talk.receive(answer(text[:70])), *talk.receive(answer(text[70:], end=True))]
    assert [reply.data for reply in replies if isinstance(reply, BodyReply)] == [text[:70], text[70:-7] + b'"m"}']


def test_other_content_passes_unchanged() -> None:
    """An image or audio answer holds no model name."""
    talk = exchange(FakeDirector(served_model="m-v2"))
    talk.receive(headers())
    talk.receive(body())
    [reply] = talk.receive(response("audio/wav"))
    assert isinstance(reply, HeadersReply)
    assert reply.mode is None


def test_a_duplex_proxy_gets_every_byte_of_the_answer_back() -> None:
    """Whatever is not handed back is lost to the client."""
    talk = exchange(FakeDirector())
    talk.receive(headers(mode=DUPLEX, response_mode=DUPLEX))
    talk.receive(body())
    talk.receive(response("text/event-stream"))
    assert talk.receive(answer(b"data: 1\n\n")) == [DuplexBodyReply(Phase.RESPONSE, b"data: 1\n\n", False)]
    assert talk.receive(answer(b"", end=True)) == [DuplexBodyReply(Phase.RESPONSE, b"", True)]


def test_a_duplex_answer_that_is_renamed_gives_up_what_it_held_before_the_trailers() -> None:
    """An answer may break off in the middle of the name."""
    talk = exchange(FakeDirector(served_model="m-v2"))
    talk.receive(headers(mode=DUPLEX, response_mode=DUPLEX))
    talk.receive(body())
    talk.receive(response("text/event-stream"))
    assert talk.receive(answer(b'"model"')) == [DuplexBodyReply(Phase.RESPONSE, b'"model"', False)]
    assert talk.receive(answer(b'\ndata: {"model":"m-')) == [
        DuplexBodyReply(Phase.RESPONSE, b'\ndata: {"model":', False)
    ]
    piece, trailers = talk.receive(Trailers(Phase.RESPONSE))
    assert piece == DuplexBodyReply(Phase.RESPONSE, b'"m-', False)
    assert trailers == TrailersReply(Phase.RESPONSE)


@pytest.mark.parametrize("ends_with_trailers", [False, True])
def test_a_piece_that_ends_within_the_name_is_answered_with_the_next(ends_with_trailers: bool) -> None:
    """Until then the proxy has the whole answer; a picker that is killed takes nothing with it."""
    talk = exchange(FakeDirector(served_model="m-v2"))
    talk.receive(headers())
    talk.receive(body())
    talk.receive(response("text/event-stream"))
    assert talk.receive(answer(b'data: {"model":"m')) == []
    assert talk.receive(answer(b"-v2")) == []
    if ends_with_trailers:
        replies = talk.receive(Trailers(Phase.RESPONSE))
        assert replies.pop() == TrailersReply(Phase.RESPONSE)
        expected = [b'data: {"model":', b'"m-v2']
    else:
        replies = talk.receive(answer(b'"}\n'))
        expected = [b'data: {"model":', b"", b'"m"}\n']
    assert [reply.data for reply in replies if isinstance(reply, BodyReply)] == expected


def test_the_first_byte_and_the_serving_endpoint_are_reported() -> None:
    """Where the proxy tells them."""
    director = FakeDirector()
    talk = exchange(director)
    talk.receive(headers())
    talk.receive(body())
    talk.receive(response(served="10.0.0.2:8000"))
    assert director.responses == [("10.0.0.2:8000", 200)]


@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("end", [True, False])
def test_the_proxy_is_asked_to_show_an_answer_that_somebody_wants_to_see(sees: bool, end: bool) -> None:
    """With the answer to the request's headers: later it would not listen."""
    talk = exchange(FakeDirector(samples=sees))
    [reply] = talk.receive(headers("GET" if end else "POST", end=end))
    assert isinstance(reply, HeadersReply)
    assert (reply.mode is not None) == sees


def test_a_proxy_that_is_asked_to_show_an_answer_goes_on_as_it_is_set_up() -> None:
    """Its own mode for the answer's body is told again."""
    talk = exchange(FakeDirector(samples=True))
    [reply] = talk.receive(headers(response_mode=BodyMode.STREAMED))
    assert isinstance(reply, HeadersReply)
    assert reply.mode == ModeOverride(response_body=BodyMode.STREAMED)


def test_who_asks_for_a_prediction_makes_the_answer_pass() -> None:
    """It is told in the answer's headers."""
    [reply] = exchange(FakeDirector(), predict_ttft=True).receive(headers(x_inference_gateway_predict_ttft="1"))
    assert isinstance(reply, HeadersReply)
    assert reply.mode is not None


def test_a_proxy_that_does_not_tell_how_it_runs_is_not_told_how_to() -> None:
    [reply] = exchange(FakeDirector(samples=True)).receive(headers(mode=None))
    assert isinstance(reply, HeadersReply)
    assert reply.mode is None


@pytest.mark.parametrize(
    ("sees", "shown", "not_sampled"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_an_answer_that_nobody_asked_to_see_is_told_from_one_that_never_came(
    sees: bool, shown: bool, not_sampled: bool
) -> None:
    """A gateway that shows all answers is no different from one that was asked to."""
    director = FakeDirector(samples=sees)
    talk = exchange(director)
    talk.receive(headers())
    talk.receive(body())
    if shown:
        talk.receive(response())
    talk.close()
    assert director.ends == [not_sampled]


def test_an_exchange_is_settled_once_the_picker_is_no_longer_needed() -> None:
    """What may be closed on shutdown with nothing lost: not before the pick, not while answers are being renamed."""
    plain, renaming = exchange(FakeDirector()), exchange(FakeDirector(served_model="m-v2"))
    for talk in (plain, renaming):
        talk.receive(headers())
        assert not talk.settled
        talk.receive(body())
    assert plain.settled
    assert not renaming.settled


def test_nothing_comes_after_the_trailers_of_an_answer() -> None:
    """Out of order messages end the stream."""
    talk = exchange(FakeDirector())
    talk.receive(headers())
    talk.receive(body())
    assert talk.receive(Trailers(Phase.RESPONSE)) == [TrailersReply(Phase.RESPONSE)]
    assert talk.settled
    for late in (response(), answer(b"x"), Trailers(Phase.RESPONSE)):
        with pytest.raises(ProtocolViolation):
            talk.receive(late)


def test_a_compressed_answer_is_not_searched() -> None:
    """A server that compresses unasked keeps its length and its name."""
    talk = exchange(FakeDirector(served_model="m-v2"))
    talk.receive(headers())
    talk.receive(body())
    compressed = ResponseHeaders(
        {":status": "200", "content-type": "application/json", "content-encoding": "gzip"}, False
    )
    assert talk.receive(compressed) == [HeadersReply(Phase.RESPONSE)]


def test_a_renamed_request_asks_for_an_answer_that_can_be_searched() -> None:
    """Clients offer compression without thinking."""
    talk = exchange(FakeDirector(served_model="m-v2"))
    talk.receive(headers())
    [reply] = talk.receive(body())
    assert isinstance(reply, BodyReply)
    assert "accept-encoding" in reply.changes.remove_headers


def predicted(asks: bool, predicted_ttft_s: float | None, allowed: bool = True) -> dict[str, str]:
    """The headers that an answer is given."""
    talk = exchange(FakeDirector(predicted_ttft_s=predicted_ttft_s), predict_ttft=allowed)
    talk.receive(headers(x_inference_gateway_predict_ttft="1") if asks else headers())
    talk.receive(body())
    [reply] = talk.receive(response())
    assert isinstance(reply, HeadersReply)
    return dict(reply.changes.set_headers)


def test_who_asks_is_told_the_predicted_time_to_the_first_token() -> None:
    """In milliseconds; nobody else, and nothing where there is no prediction."""
    assert predicted(asks=True, predicted_ttft_s=0.1234) == {"x-inference-gateway-predicted-ttft-ms": "123"}
    assert predicted(asks=True, predicted_ttft_s=None) == {}
    assert predicted(asks=False, predicted_ttft_s=0.1234) == {}
    assert predicted(asks=True, predicted_ttft_s=0.1234, allowed=False) == {}
