"""The request half of an exchange: when the pick is made, and which reply carries it."""

import json

import pytest
from exchange_conversation import ENDPOINTS, FakeDirector, body, headers, new_exchange, response
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
from picker.extproc.read_headers import ReadHeaders
from picker.extproc.request_phase import BODY_TIMEOUT_S, SLOWEST_BODY_BYTES_PER_S, UNDECLARED_BODY_TIMEOUT_S
from picker.protocol import DESTINATION, FAIRNESS_ID, OBJECTIVE
from picker.rejection import Rejection, RejectReason
from picker.requestcontrol.request_body import EMPTY_BODY

DUPLEX = BodyMode.FULL_DUPLEX_STREAMED


def test_buffered_headers_are_answered_before_the_pick() -> None:
    """In mode BUFFERED the proxy sends the body only after the reply to the headers."""
    director = FakeDirector()
    [reply] = new_exchange(director).receive(headers())
    assert isinstance(reply, HeadersReply)
    assert reply.changes.destination is None
    assert director.requests == []


def test_control_headers_of_a_client_are_removed() -> None:
    """A client must not choose its endpoint."""
    [reply] = new_exchange(FakeDirector()).receive(headers())
    assert isinstance(reply, HeadersReply)
    assert reply.changes.remove_headers == CONTROL_HEADERS


def test_the_reply_to_a_buffered_body_carries_the_pick() -> None:
    """As header and as metadata. The body is unchanged."""
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers())
    [reply] = exchange.receive(body())
    assert isinstance(reply, BodyReply)
    assert reply.changes.destination == ENDPOINTS
    assert (DESTINATION, ENDPOINTS) in reply.changes.set_headers
    assert reply.data is None


def test_a_duplex_request_is_answered_when_its_body_is_complete() -> None:
    """After an earlier reply the proxy would route the request without a pick."""
    exchange = new_exchange(FakeDirector())
    assert exchange.receive(headers(mode=DUPLEX)) == []
    data = json.dumps({"model": "m"}).encode()
    assert exchange.receive(body(data[:5], end=False)) == []
    first, *rest = exchange.receive(body(data[5:]))
    assert isinstance(first, HeadersReply)
    assert first.changes.destination == ENDPOINTS
    assert first.changes.clear_route_cache
    assert rest == [DuplexBodyReply(Phase.REQUEST, data, True)]


@given(st.integers(min_value=0, max_value=4 * DUPLEX_PIECE_BYTES))
def test_a_duplex_body_is_returned_whole_in_pieces_that_envoy_accepts(padding: int) -> None:
    """Every byte once and in order. Only the last piece ends the stream."""
    data = json.dumps({"model": "m", "prompt": "x" * padding}).encode()
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers(mode=DUPLEX))
    pieces = [reply for reply in exchange.receive(body(data)) if isinstance(reply, DuplexBodyReply)]
    assert b"".join(piece.data for piece in pieces) == data
    assert [piece.end_of_stream for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert max(len(piece.data) for piece in pieces) <= DUPLEX_PIECE_BYTES


def test_a_second_end_of_stream_is_ignored() -> None:
    """Envoy sends it with bodies above 1 MB."""
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers(mode=DUPLEX))
    exchange.receive(body())
    assert exchange.receive(body(b"")) == []


def test_duplex_trailers_end_the_body() -> None:
    """The last piece does not end the stream then."""
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers(mode=DUPLEX))
    exchange.receive(body(end=False))
    first, piece, last = exchange.receive(Trailers(Phase.REQUEST))
    assert isinstance(first, HeadersReply)
    assert isinstance(piece, DuplexBodyReply)
    assert not piece.end_of_stream
    assert last == TrailersReply(Phase.REQUEST)


def test_buffered_trailers_without_a_body_are_rejected() -> None:
    """No later reply can carry the pick."""
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers(path="/tokenize"))
    [reply] = exchange.receive(Trailers(Phase.REQUEST))
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 400


def test_a_request_without_a_body_is_picked_by_its_headers() -> None:
    """For example GET /v1/models."""
    director = FakeDirector()
    subset = frozenset({"10.0.0.2:8000"})
    [reply] = new_exchange(director).receive(headers("GET", "/v1/models", end=True, subset=subset))
    assert isinstance(reply, HeadersReply)
    assert reply.changes.destination == ENDPOINTS
    assert director.requests[0].subset == subset
    assert director.requests[0].body.model is None


def test_a_proxy_that_sends_no_bodies_gets_a_pick() -> None:
    """In mode NONE the proxy forwards the request before its body is known."""
    [reply] = new_exchange(FakeDirector()).receive(headers(mode=BodyMode.NONE))
    assert isinstance(reply, HeadersReply)
    assert reply.changes.destination == ENDPOINTS


def test_a_request_names_the_pool_of_the_gateway() -> None:
    director = FakeDirector()
    new_exchange(director).receive(headers("GET", "/v1/models", end=True, pool="g/ns/pool"))
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
    """Status 400 in OpenAI's error format. A header has the reason too."""
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers(mode=mode))
    [reply] = exchange.receive(body(data))
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
    """Such bodies are passed on without parsing."""
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers(path=path, content_type=content_type))
    [reply] = exchange.receive(body(b"--1 not json"))
    assert isinstance(reply, BodyReply)
    assert reply.changes.destination == ENDPOINTS


@pytest.mark.parametrize("path", ["/v1/responses/resp_1/cancel", "/v1/completions"])
def test_a_post_without_a_body_is_picked_by_its_headers(path: str) -> None:
    """The server decides whether an empty body is valid."""
    [reply] = new_exchange(FakeDirector()).receive(headers(path=path, end=True))
    assert isinstance(reply, HeadersReply)
    assert reply.changes.destination == ENDPOINTS


@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, DUPLEX])
def test_an_empty_body_gets_a_pick_at_its_end(mode: BodyMode) -> None:
    """A chunked body without a chunk: its headers do not show that it is empty."""
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers(mode=mode))
    reply = exchange.receive(body(b""))[0]
    assert isinstance(reply, BodyReply | HeadersReply)
    assert reply.changes.destination == ENDPOINTS


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_rejected(declared: bool) -> None:
    """At once by its content-length, or when the received bytes exceed the limit."""
    exchange = new_exchange(FakeDirector(), max_body_bytes=100)
    replies = exchange.receive(headers(mode=DUPLEX, content_length="101" if declared else ""))
    if not declared:
        assert exchange.receive(body(b"x" * 100, end=False)) == []
        replies = exchange.receive(body(b"x", end=False))
    [reply] = replies
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 413


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "GZip", "identity, gzip"])
@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, DUPLEX])
def test_a_compressed_body_is_rejected_before_it_is_sent(coding: str, mode: BodyMode) -> None:
    """Model servers do not read compressed bodies. The response has the accepted coding (RFC 9110, 15.5.16)."""
    [reply] = new_exchange(FakeDirector()).receive(headers(mode=mode, content_encoding=coding))
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 415
    assert dict(reply.headers)["accept-encoding"] == "identity"
    assert coding.lower().rpartition(" ")[2] in json.loads(reply.body)["error"]["message"]


@pytest.mark.parametrize("coding", ["identity", "", " Identity , identity"])
def test_a_body_with_the_identity_coding_is_read(coding: str) -> None:
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers(content_encoding=coding))
    [reply] = exchange.receive(body())
    assert isinstance(reply, BodyReply)


def test_a_compressed_body_of_a_route_without_a_model_is_passed_on() -> None:
    director = FakeDirector()
    exchange = new_exchange(director)
    exchange.receive(headers(path="/tokenize", content_encoding="gzip"))
    [reply] = exchange.receive(body(b"\x1f\x8b"))
    assert isinstance(reply, BodyReply)
    assert director.requests[0].body.model is None


@pytest.mark.parametrize("length", ["x", "-1", "\u00b2", "9" * 5000, ""])
def test_an_invalid_content_length_is_ignored(length: str) -> None:
    """The received bytes are still counted."""
    exchange = new_exchange(FakeDirector(), max_body_bytes=10)
    assert exchange.receive(headers(mode=DUPLEX, content_length=length)) == []
    [reply] = exchange.receive(body(b"x" * 11, end=False))
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 413


def test_a_rejection_of_the_director_reaches_the_client() -> None:
    """With its status, and with retry-after."""
    exchange = new_exchange(FakeDirector(Rejection(RejectReason.SATURATED, "Busy.")))
    exchange.receive(headers())
    [reply] = exchange.receive(body())
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 429
    assert dict(reply.headers)["retry-after"] == "1"


def test_pieces_of_the_body_after_a_rejection_are_ignored() -> None:
    """The proxy may have sent them before it received the immediate response."""
    exchange = new_exchange(FakeDirector(), max_body_bytes=10)
    exchange.receive(headers(mode=DUPLEX))
    exchange.receive(body(b"x" * 11, end=False))
    assert exchange.receive(body(b"x", end=True)) == []


@pytest.mark.parametrize("first", [body(), Trailers(Phase.REQUEST), Trailers(Phase.RESPONSE)])
def test_an_exchange_must_begin_with_headers(first: object) -> None:
    """Messages out of order end the stream."""
    with pytest.raises(ProtocolViolation):
        new_exchange(FakeDirector()).receive(first)  # type: ignore[arg-type]


def test_repeated_headers_are_a_violation() -> None:
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers())
    with pytest.raises(ProtocolViolation):
        exchange.receive(headers())


def test_a_body_after_its_end_is_a_violation() -> None:
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers())
    exchange.receive(body())
    with pytest.raises(ProtocolViolation):
        exchange.receive(body())


def test_a_body_that_does_not_arrive_is_rejected_with_408() -> None:
    """The caller of the exchange waits for `deadline_s`, and calls `expire`."""
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers())
    assert exchange.deadline_s is not None
    [reply] = exchange.expire()
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
def test_the_timeout_of_a_buffered_body_depends_on_its_length(length: int | None, seconds: float) -> None:
    """The proxy sends it in one message, so its pauses are not visible."""
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers(content_length=str(length)) if length is not None else headers())
    assert exchange.deadline_s == seconds


def test_the_timeout_of_a_body_in_pieces_is_that_of_one_piece() -> None:
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers(mode=DUPLEX, content_length=str(4 << 20)))
    exchange.receive(body(b"{", end=False))
    assert exchange.deadline_s == BODY_TIMEOUT_S


def test_an_error_of_the_picker_before_the_pick_is_a_500() -> None:
    exchange = new_exchange(FakeDirector(RuntimeError("boom")))
    exchange.receive(headers())
    with pytest.raises(RuntimeError):
        exchange.receive(body())
    [reply] = exchange.fail()
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 500


@pytest.mark.parametrize("messages", [0, 1, 2])
def test_a_request_whose_client_disconnects_ends(messages: int) -> None:
    """Before the pick no request is in flight."""
    director = FakeDirector()
    exchange = new_exchange(director)
    for message in (headers(), body())[:messages]:
        exchange.receive(message)
    exchange.close()
    assert len(director.ends) == (1 if messages == 2 else 0)


def test_trusted_headers_set_the_objective_and_the_flow() -> None:
    director = FakeDirector()
    exchange = new_exchange(director, read_headers=ReadHeaders.of({OBJECTIVE, FAIRNESS_ID}))
    exchange.receive(headers(x_llm_d_inference_objective="batch", x_llm_d_inference_fairness_id="tenant-a"))
    exchange.receive(body())
    assert (director.requests[0].objective, director.requests[0].flow) == ("batch", "tenant-a")


def test_headers_that_are_not_trusted_are_ignored() -> None:
    """Any client can send them."""
    director = FakeDirector()
    exchange = new_exchange(director, read_headers=ReadHeaders.of({FAIRNESS_ID}))
    exchange.receive(headers(x_llm_d_inference_objective="batch", x_llm_d_inference_fairness_id="tenant-a"))
    exchange.receive(body())
    assert (director.requests[0].objective, director.requests[0].flow) == (None, "tenant-a")


def test_an_empty_objective_or_flow_is_none() -> None:
    director = FakeDirector()
    exchange = new_exchange(director, read_headers=ReadHeaders.of({OBJECTIVE, FAIRNESS_ID}))
    exchange.receive(headers(x_llm_d_inference_objective="", x_llm_d_inference_fairness_id=""))
    exchange.receive(body())
    assert (director.requests[0].objective, director.requests[0].flow) == (None, None)


@pytest.mark.parametrize("mode", [BodyMode.STREAMED, BodyMode.BUFFERED_PARTIAL])
def test_a_body_after_the_pick_is_passed_on(mode: BodyMode) -> None:
    """Also after the response began."""
    exchange = new_exchange(FakeDirector())
    exchange.receive(headers(mode=mode))
    assert exchange.receive(body(b"not json", end=False)) == [BodyReply(Phase.REQUEST)]
    exchange.receive(response())
    assert exchange.receive(body(b"at all")) == [BodyReply(Phase.REQUEST)]


def test_a_response_of_the_proxy_itself_is_unchanged() -> None:
    """The proxy rejected the body, for example. No endpoint was assigned."""
    director = FakeDirector()
    exchange = new_exchange(director)
    exchange.receive(headers())
    assert exchange.receive(response()) == [HeadersReply(Phase.RESPONSE)]
    assert exchange.deadline_s is None
    assert director.requests == []


def test_a_closed_exchange_returns_no_replies() -> None:
    """The request ends once, also if `close` is called again."""
    director = FakeDirector()
    exchange = new_exchange(director)
    exchange.receive(headers())
    exchange.receive(body())
    exchange.close()
    exchange.close()
    assert exchange.receive(response()) == []
    assert len(director.ends) == 1


def test_invalid_json_of_type_json_is_rejected_on_any_path() -> None:
    """A lenient server could read a model where the picker reads none."""
    for path in ("/tokenize", "/v1/files", "/another/route"):
        exchange = new_exchange(FakeDirector())
        exchange.receive(headers(path=path, content_type="Application/JSON; charset=utf-8"))
        [reply] = exchange.receive(body(b'{"model": "m", "temperature": NaN}'))
        assert isinstance(reply, ImmediateReply)
        assert reply.status == 400


def test_texts_of_a_client_are_bounded() -> None:
    long = "x" * 60_000
    names = (OBJECTIVE, FAIRNESS_ID, "x-request-id", "traceparent")
    request = RequestHeaders({":method": "POST", ":path": f"/v1/{long}", **dict.fromkeys(names, long)}, False)
    picked = pick_request(request, EMPTY_BODY, 0, ReadHeaders.of({OBJECTIVE, FAIRNESS_ID}))
    for text in (picked.objective, picked.flow, picked.info.request_id, picked.info.trace, picked.info.path):
        assert text is not None
        assert len(text) == MAX_CHARACTERS
        assert text.endswith(MARK)


def test_a_path_is_kept_without_its_query() -> None:
    request = RequestHeaders({":method": "POST", ":path": "/v1/completions?api_key=secret"}, False)
    assert pick_request(request, EMPTY_BODY, 0).info.path == "/v1/completions"


def test_a_header_in_a_rejection_is_bounded() -> None:
    director = FakeDirector()
    coding = {"content-encoding": "x" * 60_000}
    request = RequestHeaders({":method": "POST", ":path": "/v1/completions", **coding}, False)
    [reply] = new_exchange(director).receive(request)
    assert isinstance(reply, ImmediateReply)
    assert len(reply.body) < 1000
