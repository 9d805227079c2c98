"""The response half of an exchange: it restores the client's model name, and passes on the rest unchanged."""

import json
from itertools import pairwise

import pytest
from exchange_conversation import FakeDirector, body, headers, new_exchange, response, response_body
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


def test_renaming_a_model_changes_only_its_bytes() -> None:
    """Numbers, order, spaces and escapes are kept."""
    exchange = new_exchange(FakeDirector(served_model="m-v2"))
    exchange.receive(headers())
    [reply] = exchange.receive(body(b'{ "seed": 9007199254740993, "model" : "m", "x": "\\u00e9 <&>", "y": 1e400 }'))
    assert isinstance(reply, BodyReply)
    assert reply.data == b'{ "seed": 9007199254740993, "model" : "m-v2", "x": "\\u00e9 <&>", "y": 1e400 }'
    assert ("content-length", str(len(reply.data))) in reply.changes.set_headers


def test_the_response_body_is_requested_only_for_a_renamed_model() -> None:
    for served, expected_mode in (("m-v2", BodyMode.STREAMED), (None, None)):
        exchange = new_exchange(FakeDirector(served_model=served))
        exchange.receive(headers())
        exchange.receive(body())
        [reply] = exchange.receive(response())
        assert isinstance(reply, HeadersReply)
        assert (reply.mode.response_body if reply.mode else None) == expected_mode
        assert ("content-length" in reply.changes.remove_headers) == (served is not None)


@given(st.lists(st.integers(min_value=0, max_value=400), max_size=6))
def test_the_clients_name_is_restored_in_streams_split_anywhere(cuts: list[int]) -> None:
    """Also within the name."""
    events = "".join(
        f"data: {json.dumps({'id': i, 'model': 'm-v2', 'choices': [{'delta': {'content': 'model: m-v2 é'}}]})}\n\n"
        for i in range(3)
    )
    stream = (events + "data: [DONE]\n\n").encode()
    exchange = new_exchange(FakeDirector(served_model="m-v2"))
    exchange.receive(headers())
    exchange.receive(body())
    exchange.receive(response("text/event-stream; charset=utf-8"))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    replies = [reply for start, end in pairwise(edges) for reply in exchange.receive(response_body(stream[start:end]))]
    replies += exchange.receive(response_body(b"", end=True))
    assert len(replies) == len(edges)
    out = b"".join(reply.data or b"" for reply in replies if isinstance(reply, BodyReply))
    assert out == stream.replace(b'"model": "m-v2"', b'"model": "m"')


def test_the_clients_name_is_restored_in_a_json_response() -> None:
    """Only a string that may be the name is held back until its end."""
    text = b'{"choices": [{"message": {"content": "\\"model\\": \\"m-v2\\""}}], "model":"m-v2"}'
    exchange = new_exchange(FakeDirector(served_model="m-v2"))
    exchange.receive(headers())
    exchange.receive(body())
    exchange.receive(response())
    replies = [*exchange.receive(response_body(text[:70])), *exchange.receive(response_body(text[70:], end=True))]
    assert [reply.data for reply in replies if isinstance(reply, BodyReply)] == [text[:70], text[70:-7] + b'"m"}']


def test_a_response_of_another_content_type_is_unchanged() -> None:
    """Images and audio name no model."""
    exchange = new_exchange(FakeDirector(served_model="m-v2"))
    exchange.receive(headers())
    exchange.receive(body())
    [reply] = exchange.receive(response("audio/wav"))
    assert isinstance(reply, HeadersReply)
    assert reply.mode is None


def test_a_duplex_response_is_returned_whole() -> None:
    """The proxy forwards only what the picker returns."""
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers(mode=DUPLEX, response_mode=DUPLEX))
    exchange.receive(body())
    exchange.receive(response("text/event-stream"))
    assert exchange.receive(response_body(b"data: 1\n\n")) == [DuplexBodyReply(Phase.RESPONSE, b"data: 1\n\n", False)]
    assert exchange.receive(response_body(b"", end=True)) == [DuplexBodyReply(Phase.RESPONSE, b"", True)]


def test_held_back_bytes_of_a_duplex_response_precede_its_trailers() -> None:
    """A response may end within the name."""
    exchange = new_exchange(FakeDirector(served_model="m-v2"))
    exchange.receive(headers(mode=DUPLEX, response_mode=DUPLEX))
    exchange.receive(body())
    exchange.receive(response("text/event-stream"))
    assert exchange.receive(response_body(b'"model"')) == [DuplexBodyReply(Phase.RESPONSE, b'"model"', False)]
    assert exchange.receive(response_body(b'\ndata: {"model":"m-')) == [
        DuplexBodyReply(Phase.RESPONSE, b'\ndata: {"model":', False)
    ]
    piece, trailers = exchange.receive(Trailers(Phase.RESPONSE))
    assert piece == DuplexBodyReply(Phase.RESPONSE, b'"m-', False)
    assert trailers == TrailersReply(Phase.RESPONSE)


@pytest.mark.parametrize("ends_with_trailers", [False, True])
def test_a_piece_that_ends_within_the_name_is_answered_with_the_next(ends_with_trailers: bool) -> None:
    """Until the reply the proxy keeps the piece, so nothing is lost if the picker is killed."""
    exchange = new_exchange(FakeDirector(served_model="m-v2"))
    exchange.receive(headers())
    exchange.receive(body())
    exchange.receive(response("text/event-stream"))
    assert exchange.receive(response_body(b'data: {"model":"m')) == []
    assert exchange.receive(response_body(b"-v2")) == []
    if ends_with_trailers:
        replies = exchange.receive(Trailers(Phase.RESPONSE))
        assert replies.pop() == TrailersReply(Phase.RESPONSE)
        expected = [b'data: {"model":', b'"m-v2']
    else:
        replies = exchange.receive(response_body(b'"}\n'))
        expected = [b'data: {"model":', b"", b'"m"}\n']
    assert [reply.data for reply in replies if isinstance(reply, BodyReply)] == expected


def test_the_status_and_the_serving_endpoint_are_reported() -> None:
    director = FakeDirector()
    exchange = new_exchange(director)
    exchange.receive(headers())
    exchange.receive(body())
    exchange.receive(response(served="10.0.0.2:8000"))
    assert director.responses == [("10.0.0.2:8000", 200)]


@pytest.mark.parametrize("samples", [True, False])
@pytest.mark.parametrize("end", [True, False])
def test_response_headers_are_requested_for_a_sampled_response(samples: bool, end: bool) -> None:
    """In the reply to the request's headers. A later override has no effect."""
    exchange = new_exchange(FakeDirector(samples=samples))
    [reply] = exchange.receive(headers("GET" if end else "POST", end=end))
    assert isinstance(reply, HeadersReply)
    assert (reply.mode is not None) == samples


def test_sampling_keeps_the_proxys_response_body_mode() -> None:
    exchange = new_exchange(FakeDirector(samples=True))
    [reply] = exchange.receive(headers(response_mode=BodyMode.STREAMED))
    assert isinstance(reply, HeadersReply)
    assert reply.mode == ModeOverride(response_body=BodyMode.STREAMED)


def test_response_headers_are_requested_for_a_prediction() -> None:
    """The response headers carry the prediction."""
    [reply] = new_exchange(FakeDirector(), predict_ttft=True).receive(headers(x_inference_gateway_predict_ttft="1"))
    assert isinstance(reply, HeadersReply)
    assert reply.mode is not None


def test_a_proxy_that_does_not_send_its_modes_gets_no_override() -> None:
    [reply] = new_exchange(FakeDirector(samples=True)).receive(headers(mode=None))
    assert isinstance(reply, HeadersReply)
    assert reply.mode is None


@pytest.mark.parametrize(
    ("samples", "received", "not_sampled"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_a_response_that_was_not_requested_is_not_sampled(samples: bool, received: bool, not_sampled: bool) -> None:
    """One that was requested and did not come is different. Some proxies send all response headers."""
    director = FakeDirector(samples=samples)
    exchange = new_exchange(director)
    exchange.receive(headers())
    exchange.receive(body())
    if received:
        exchange.receive(response())
    exchange.close()
    assert director.ends == [not_sampled]


def test_an_exchange_is_settled_when_the_proxy_no_longer_needs_it() -> None:
    """After the pick, unless the response is renamed."""
    plain, renaming = new_exchange(FakeDirector()), new_exchange(FakeDirector(served_model="m-v2"))
    for exchange in (plain, renaming):
        exchange.receive(headers())
        assert not exchange.settled
        exchange.receive(body())
    assert plain.settled
    assert not renaming.settled


def test_a_message_after_the_response_trailers_is_a_violation() -> None:
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers())
    exchange.receive(body())
    assert exchange.receive(Trailers(Phase.RESPONSE)) == [TrailersReply(Phase.RESPONSE)]
    assert exchange.settled
    for late in (response(), response_body(b"x"), Trailers(Phase.RESPONSE)):
        with pytest.raises(ProtocolViolation):
            exchange.receive(late)


def test_a_compressed_response_is_unchanged() -> None:
    """A server may compress it although the request does not accept that."""
    exchange = new_exchange(FakeDirector(served_model="m-v2"))
    exchange.receive(headers())
    exchange.receive(body())
    compressed = ResponseHeaders(
        {":status": "200", "content-type": "application/json", "content-encoding": "gzip"}, False
    )
    assert exchange.receive(compressed) == [HeadersReply(Phase.RESPONSE)]


def test_a_renamed_request_does_not_accept_compression() -> None:
    """The name could not be restored in a compressed response."""
    exchange = new_exchange(FakeDirector(served_model="m-v2"))
    exchange.receive(headers())
    [reply] = exchange.receive(body())
    assert isinstance(reply, BodyReply)
    assert "accept-encoding" in reply.changes.remove_headers


def predicted(requested: bool, predicted_ttft_s: float | None, allowed: bool = True) -> dict[str, str]:
    """The headers that are added to a response."""
    exchange = new_exchange(FakeDirector(predicted_ttft_s=predicted_ttft_s), predict_ttft=allowed)
    exchange.receive(headers(x_inference_gateway_predict_ttft="1") if requested else headers())
    exchange.receive(body())
    [reply] = exchange.receive(response())
    assert isinstance(reply, HeadersReply)
    return dict(reply.changes.set_headers)


def test_the_response_has_the_prediction_if_it_was_requested() -> None:
    """In milliseconds."""
    assert predicted(requested=True, predicted_ttft_s=0.1234) == {"x-inference-gateway-predicted-ttft-ms": "123"}
    assert predicted(requested=True, predicted_ttft_s=None) == {}
    assert predicted(requested=False, predicted_ttft_s=0.1234) == {}
    assert predicted(requested=True, predicted_ttft_s=0.1234, allowed=False) == {}
