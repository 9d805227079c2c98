"""The request half of an exchange: when the pick is made, and in which message it travels."""

import json

import pytest
from exchange_conversation import ENDPOINTS, FakeDirector, body, exchange, headers, response
from hypothesis import given
from hypothesis import strategies as st
from picker.bounded_text import MARK, MAX_CHARACTERS
from picker.extproc.headers import CONTROL_HEADERS, pick_request
from picker.extproc.messages import (
    DUPLEX_PIECE_BYTES,
    BodyMode,
    BodyReply,
    DuplexBodyReply,
    HeadersReply,
    ImmediateReply,
    Phase,
    ProtocolViolation,
    RequestHeaders,
    Trailers,
    TrailersReply,
)
from picker.extproc.request_phase import BODY_TIMEOUT_S, SLOWEST_BODY_BYTES_PER_S, UNDECLARED_BODY_TIMEOUT_S
from picker.protocol import DESTINATION, FAIRNESS_ID, OBJECTIVE
from picker.rejection import Rejection, RejectReason
from picker.requestcontrol.request_body import EMPTY_BODY

DUPLEX = BodyMode.FULL_DUPLEX_STREAMED


def test_a_buffered_body_is_asked_for_before_the_pick() -> None:
    """In BUFFERED mode the proxy sends the body only after its headers were answered."""
    director = FakeDirector()
    [reply] = exchange(director).receive(headers())
    assert isinstance(reply, HeadersReply)
    assert reply.changes.destination is None
    assert director.requests == []


def test_what_a_client_says_in_control_headers_is_dropped() -> None:
    """A client must never pick its own target."""
    [reply] = exchange(FakeDirector()).receive(headers())
    assert isinstance(reply, HeadersReply)
    assert reply.changes.remove_headers == CONTROL_HEADERS


def test_the_pick_goes_with_the_buffered_body_as_header_and_metadata() -> None:
    """The body itself stays as it is."""
    talk = exchange(FakeDirector())
    talk.receive(headers())
    [reply] = talk.receive(body())
    assert isinstance(reply, BodyReply)
    assert reply.changes.destination == ENDPOINTS
    assert (DESTINATION, ENDPOINTS) in reply.changes.set_headers
    assert reply.data is None


def test_a_duplex_request_is_answered_only_when_its_body_is_complete() -> None:
    """Earlier, the proxy would route it before the pick."""
    talk = exchange(FakeDirector())
    assert talk.receive(headers(mode=DUPLEX)) == []
    data = json.dumps({"model": "m"}).encode()
    assert talk.receive(body(data[:5], end=False)) == []
    first, *rest = talk.receive(body(data[5:]))
    assert isinstance(first, HeadersReply)
    assert first.changes.destination == ENDPOINTS
    assert first.changes.clear_route_cache
    assert rest == [DuplexBodyReply(Phase.REQUEST, data, True)]


@given(st.integers(min_value=0, max_value=4 * DUPLEX_PIECE_BYTES))
def test_a_duplex_body_comes_back_whole_in_pieces_that_envoy_takes(padding: int) -> None:
    """Every byte once, in order, the end told exactly once and last."""
    data = json.dumps({"model": "m", "prompt": "x" * padding}).encode()
    talk = exchange(FakeDirector())
    talk.receive(headers(mode=DUPLEX))
    pieces = [reply for reply in talk.receive(body(data)) if isinstance(reply, DuplexBodyReply)]
    assert b"".join(piece.data for piece in pieces) == data
    assert [piece.end_of_stream for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert max(len(piece.data) for piece in pieces) <= DUPLEX_PIECE_BYTES


def test_a_second_end_of_stream_is_ignored() -> None:
    """Seen from a proxy with bodies over 1 MB."""
    talk = exchange(FakeDirector())
    talk.receive(headers(mode=DUPLEX))
    talk.receive(body())
    assert talk.receive(body(b"")) == []


def test_duplex_trailers_end_the_body() -> None:
    """The end is then told by the trailers, not by the last piece."""
    talk = exchange(FakeDirector())
    talk.receive(headers(mode=DUPLEX))
    talk.receive(body(end=False))
    first, piece, last = talk.receive(Trailers(Phase.REQUEST))
    assert isinstance(first, HeadersReply)
    assert isinstance(piece, DuplexBodyReply)
    assert not piece.end_of_stream
    assert last == TrailersReply(Phase.REQUEST)


def test_trailers_without_a_body_are_a_bad_request() -> None:
    """The proxy keeps the body, and has none to put the pick to."""
    talk = exchange(FakeDirector())
    talk.receive(headers(path="/tokenize"))
    [reply] = talk.receive(Trailers(Phase.REQUEST))
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 400


def test_a_request_without_a_body_gets_any_endpoint_of_the_subset() -> None:
    """GET /v1/models and the like."""
    director = FakeDirector()
    subset = frozenset({"10.0.0.2:8000"})
    [reply] = exchange(director).receive(headers("GET", "/v1/models", end=True, subset=subset))
    assert isinstance(reply, HeadersReply)
    assert reply.changes.destination == ENDPOINTS
    assert director.requests[0].subset == subset
    assert director.requests[0].body.model is None


def test_a_proxy_that_shows_no_bodies_still_gets_a_pick() -> None:
    """With body mode NONE or STREAMED the request leaves before its body is known."""
    [reply] = exchange(FakeDirector()).receive(headers(mode=BodyMode.NONE))
    assert isinstance(reply, HeadersReply)
    assert reply.changes.destination == ENDPOINTS


def test_the_pool_that_the_gateway_named_is_asked() -> None:
    """One picker serves many pools."""
    director = FakeDirector()
    exchange(director).receive(headers("GET", "/v1/models", end=True, pool="g/ns/pool"))
    assert director.requests[0].pool == "g/ns/pool"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not json", "body-not-json"),
        (b"[]", "body-not-json"),
        (b'{"model": "m"', "body-not-json"),
        (b'{"model": "m"} {}', "body-not-json"),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "body-not-json"),
        (b"\xff\xfe", "body-not-json"),
        (b'{"prompt": "hi"}', "model-missing"),
        (b'{"model": null}', "model-wrong-type"),
        (b'{"model": 3}', "model-wrong-type"),
        (b'{"model": ["m"]}', "model-wrong-type"),
        (b'{"model": "\xff"}', "model-wrong-type"),
    ],
)
@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, DUPLEX])
def test_a_body_that_names_no_model_is_a_bad_request(data: bytes, reason: str, mode: BodyMode) -> None:
    """400 in OpenAI's shape, with the reason in a header too."""
    talk = exchange(FakeDirector())
    talk.receive(headers(mode=mode))
    [reply] = talk.receive(body(data))
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 400
    assert dict(reply.headers)["x-inference-gateway-reason"] == reason
    error = json.loads(reply.body)["error"]
    assert error["code"] == reason
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("path", "content_type"),
    [("/tokenize", "text/plain"), ("/files", "multipart/form-data; boundary=1"), ("/v1/files", "")],
)
def test_other_routes_may_have_bodies_of_their_own(path: str, content_type: str) -> None:
    """They are passed on unread."""
    talk = exchange(FakeDirector())
    talk.receive(headers(path=path, content_type=content_type))
    [reply] = talk.receive(body(b"--1 not json"))
    assert isinstance(reply, BodyReply)
    assert reply.changes.destination == ENDPOINTS


@pytest.mark.parametrize("path", ["/v1/responses/resp_1/cancel", "/v1/completions"])
def test_a_post_without_a_body_is_picked_by_its_headers(path: str) -> None:
    """What it means is the server's to say."""
    [reply] = exchange(FakeDirector()).receive(headers(path=path, end=True))
    assert isinstance(reply, HeadersReply)
    assert reply.changes.destination == ENDPOINTS


@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, DUPLEX])
def test_an_empty_body_is_picked_when_its_end_comes(mode: BodyMode) -> None:
    """A chunked body without a chunk: its headers do not say that it is empty."""
    talk = exchange(FakeDirector())
    talk.receive(headers(mode=mode))
    reply = talk.receive(body(b""))[0]
    assert isinstance(reply, BodyReply | HeadersReply)
    assert reply.changes.destination == ENDPOINTS


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_refused(declared: bool) -> None:
    """By its Content-Length at once, or when it has grown too long."""
    talk = exchange(FakeDirector(), max_body_bytes=100)
    replies = talk.receive(headers(mode=DUPLEX, content_length="101" if declared else ""))
    if not declared:
        assert talk.receive(body(b"x" * 100, end=False)) == []
        replies = talk.receive(body(b"x", end=False))
    [reply] = replies
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 413


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "GZip", "identity, gzip"])
@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, DUPLEX])
def test_a_compressed_body_is_refused_before_it_is_sent(coding: str, mode: BodyMode) -> None:
    """Model servers do not read them either; the answer says what would be taken."""
    [reply] = exchange(FakeDirector()).receive(headers(mode=mode, content_encoding=coding))
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 415
    assert dict(reply.headers)["accept-encoding"] == "identity"
    assert coding.lower().rpartition(" ")[2] in json.loads(reply.body)["error"]["message"]


@pytest.mark.parametrize("coding", ["identity", "", " Identity , identity"])
def test_identity_is_no_compression(coding: str) -> None:
    """The body is read."""
    talk = exchange(FakeDirector())
    talk.receive(headers(content_encoding=coding))
    [reply] = talk.receive(body())
    assert isinstance(reply, BodyReply)


def test_a_compressed_body_of_another_route_is_passed_on_unread() -> None:
    """Nobody needs its model."""
    director = FakeDirector()
    talk = exchange(director)
    talk.receive(headers(path="/tokenize", content_encoding="gzip"))
    [reply] = talk.receive(body(b"\x1f\x8b"))
    assert isinstance(reply, BodyReply)
    assert director.requests[0].body.model is None


@pytest.mark.parametrize("length", ["x", "-1", "\u00b2", "9" * 5000, ""])
def test_a_content_length_that_is_none_is_not_believed(length: str) -> None:
    """The bytes that come are counted all the same."""
    talk = exchange(FakeDirector(), max_body_bytes=10)
    assert talk.receive(headers(mode=DUPLEX, content_length=length)) == []
    [reply] = talk.receive(body(b"x" * 11, end=False))
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 413


def test_a_refusal_of_the_desk_reaches_the_client() -> None:
    """With the status the director chose, and a hint when to come back."""
    talk = exchange(FakeDirector(Rejection(RejectReason.SATURATED, "Busy.")))
    talk.receive(headers())
    [reply] = talk.receive(body())
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 429
    assert dict(reply.headers)["retry-after"] == "1"


def test_pieces_that_come_after_a_refusal_are_ignored() -> None:
    """They were on their way when the client was answered."""
    talk = exchange(FakeDirector(), max_body_bytes=10)
    talk.receive(headers(mode=DUPLEX))
    talk.receive(body(b"x" * 11, end=False))
    assert talk.receive(body(b"x", end=True)) == []


@pytest.mark.parametrize("first", [body(), Trailers(Phase.REQUEST), Trailers(Phase.RESPONSE)])
def test_an_exchange_must_begin_with_headers(first: object) -> None:
    """Out of order messages end the stream."""
    with pytest.raises(ProtocolViolation):
        exchange(FakeDirector()).receive(first)  # type: ignore[arg-type]


def test_headers_must_not_come_twice() -> None:
    """Duplicated messages end the stream."""
    talk = exchange(FakeDirector())
    talk.receive(headers())
    with pytest.raises(ProtocolViolation):
        talk.receive(headers())


def test_a_body_after_its_end_is_a_violation() -> None:
    """And the request stays counted once."""
    talk = exchange(FakeDirector())
    talk.receive(headers())
    talk.receive(body())
    with pytest.raises(ProtocolViolation):
        talk.receive(body())


def test_a_body_that_never_comes_ends_with_a_timeout() -> None:
    """The deadline is a value; who carries the exchange keeps the time."""
    talk = exchange(FakeDirector())
    talk.receive(headers())
    assert talk.deadline_s is not None
    [reply] = talk.expire()
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 408


@pytest.mark.parametrize(
    ("length", "seconds"),
    [
        (100, BODY_TIMEOUT_S + 100 / SLOWEST_BODY_BYTES_PER_S),
        (4 << 20, BODY_TIMEOUT_S + (4 << 20) / SLOWEST_BODY_BYTES_PER_S),
        (None, UNDECLARED_BODY_TIMEOUT_S),
    ],
)
def test_a_kept_body_may_take_the_time_of_its_length(length: int | None, seconds: float) -> None:
    """The proxy shows no piece of it before the last, so that pauses cannot be seen."""
    talk = exchange(FakeDirector())
    talk.receive(headers(content_length=str(length)) if length is not None else headers())
    assert talk.deadline_s == seconds


def test_a_body_in_pieces_may_take_as_long_as_none_of_its_pauses_is_long() -> None:
    """The deadline is that of the next piece."""
    talk = exchange(FakeDirector())
    talk.receive(headers(mode=DUPLEX, content_length=str(4 << 20)))
    talk.receive(body(b"{", end=False))
    assert talk.deadline_s == BODY_TIMEOUT_S


def test_an_error_of_the_picker_is_answered_500() -> None:
    """Before anything was answered."""
    talk = exchange(FakeDirector(RuntimeError("boom")))
    talk.receive(headers())
    with pytest.raises(RuntimeError):
        talk.receive(body())
    [reply] = talk.fail()
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 500


@pytest.mark.parametrize("messages", [0, 1, 2])
def test_a_client_that_leaves_is_no_longer_counted(messages: int) -> None:
    """At whatever point; before the pick there is nothing to end."""
    director = FakeDirector()
    talk = exchange(director)
    for message in (headers(), body())[:messages]:
        talk.receive(message)
    talk.close()
    assert len(director.ends) == (1 if messages == 2 else 0)


def test_the_desk_is_told_the_objective_and_the_flow() -> None:
    """How much the request matters, and whose it is."""
    director = FakeDirector()
    talk = exchange(director, trusted_headers=frozenset({OBJECTIVE, FAIRNESS_ID}))
    talk.receive(headers(x_gateway_inference_objective="batch", x_gateway_inference_fairness_id="tenant-a"))
    talk.receive(body())
    assert (director.requests[0].objective, director.requests[0].flow) == ("batch", "tenant-a")


def test_headers_that_are_not_trusted_give_no_priority_and_no_flow() -> None:
    """Any client can send them."""
    director = FakeDirector()
    talk = exchange(director, trusted_headers=frozenset({FAIRNESS_ID}))
    talk.receive(headers(x_gateway_inference_objective="batch", x_gateway_inference_fairness_id="tenant-a"))
    talk.receive(body())
    assert (director.requests[0].objective, director.requests[0].flow) == (None, "tenant-a")


def test_an_empty_objective_or_flow_is_none() -> None:
    """As if the header were not there."""
    director = FakeDirector()
    talk = exchange(director, trusted_headers=frozenset({OBJECTIVE, FAIRNESS_ID}))
    talk.receive(headers(x_gateway_inference_objective="", x_gateway_inference_fairness_id=""))
    talk.receive(body())
    assert (director.requests[0].objective, director.requests[0].flow) == (None, None)


@pytest.mark.parametrize("mode", [BodyMode.STREAMED, BodyMode.BUFFERED_PARTIAL])
def test_bodies_that_the_pick_did_not_wait_for_pass(mode: BodyMode) -> None:
    """Also once the answer has begun."""
    talk = exchange(FakeDirector())
    talk.receive(headers(mode=mode))
    assert talk.receive(body(b"not json", end=False)) == [BodyReply(Phase.REQUEST)]
    talk.receive(response())
    assert talk.receive(body(b"at all")) == [BodyReply(Phase.REQUEST)]


def test_an_answer_of_the_proxy_itself_is_left_alone() -> None:
    """It found the body too large or too slow; nobody was asked for an endpoint."""
    director = FakeDirector()
    talk = exchange(director)
    talk.receive(headers())
    assert talk.receive(response()) == [HeadersReply(Phase.RESPONSE)]
    assert talk.deadline_s is None
    assert director.requests == []


def test_after_its_end_an_exchange_says_nothing_more() -> None:
    """And the request was counted out once."""
    director = FakeDirector()
    talk = exchange(director)
    talk.receive(headers())
    talk.receive(body())
    talk.close()
    talk.close()
    assert talk.receive(response()) == []
    assert len(director.ends) == 1


def test_a_body_that_says_it_is_json_and_is_not_is_refused_on_any_path() -> None:
    """A server that reads more than JSON would see a model where the picker sees none."""
    for path in ("/tokenize", "/v1/files", "/another/route"):
        talk = exchange(FakeDirector())
        talk.receive(headers(path=path, content_type="Application/JSON; charset=utf-8"))
        [reply] = talk.receive(body(b'{"model": "m", "temperature": NaN}'))
        assert isinstance(reply, ImmediateReply)
        assert reply.status == 400


def test_no_text_of_a_client_is_kept_longer_than_the_bound() -> None:
    long = "x" * 60_000
    names = (OBJECTIVE, FAIRNESS_ID, "x-request-id", "traceparent")
    request = RequestHeaders({":method": "POST", ":path": f"/v1/{long}", **dict.fromkeys(names, long)}, False)
    asked = pick_request(request, EMPTY_BODY, 0, frozenset({OBJECTIVE, FAIRNESS_ID}))
    for text in (asked.objective, asked.flow, asked.info.request_id, asked.info.trace, asked.info.path):
        assert text is not None
        assert len(text) == MAX_CHARACTERS
        assert text.endswith(MARK)


def test_a_path_is_kept_without_its_query() -> None:
    request = RequestHeaders({":method": "POST", ":path": "/v1/completions?api_key=secret"}, False)
    assert pick_request(request, EMPTY_BODY, 0).info.path == "/v1/completions"


def test_a_refusal_quotes_no_more_of_a_header_than_the_bound() -> None:
    director = FakeDirector()
    coding = {"content-encoding": "x" * 60_000}
    request = RequestHeaders({":method": "POST", ":path": "/v1/completions", **coding}, False)
    [reply] = exchange(director).receive(request)
    assert isinstance(reply, ImmediateReply)
    assert len(reply.body) < 1000
