"""Any sequence of messages in any mode gets valid replies or a violation, and every request ends once."""

import json
from contextlib import suppress
from itertools import pairwise

import pytest
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from exchange_conversation import FakeDirector, new_exchange
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from picker.extproc.codec import decode, encode
from picker.extproc.messages import (
    DUPLEX_PIECE_BYTES,
    Body,
    BodyMode,
    BodyReply,
    DuplexBodyReply,
    ExtendTimeout,
    HeadersReply,
    ImmediateReply,
    Incoming,
    Modes,
    Phase,
    ProtocolViolation,
    Reply,
    RequestHeaders,
    ResponseHeaders,
    Trailers,
    TrailersReply,
)
from picker.rejection import Rejection, RejectReason

Mode = processing_mode_pb2.ProcessingMode
DUPLEX = BodyMode.FULL_DUPLEX_STREAMED
LIMIT = 200

pieces = st.sampled_from([b"", b'{"model": "m"}', b'{"model"', b': "m"}', b"\xff", b"x" * 150])
request_headers = st.builds(
    RequestHeaders,
    st.fixed_dictionaries(
        {":method": st.sampled_from(["POST", "GET"]), ":path": st.sampled_from(["/v1/completions", "/tokenize"])},
        optional={
            "content-encoding": st.sampled_from(["gzip", "identity", "br, gzip"]),
            "content-length": st.sampled_from(["7", "201", "many", "\u00b2"]),
            "content-type": st.sampled_from(["application/json", "multipart/form-data; boundary=x"]),
        },
    ),
    st.booleans(),
    st.none() | st.frozensets(st.just("10.0.0.1:8000")),
    st.none() | st.builds(Modes, st.sampled_from(BodyMode), st.sampled_from(BodyMode)),
)
response_headers = st.builds(
    ResponseHeaders,
    st.fixed_dictionaries(
        {":status": st.just("200"), "content-type": st.sampled_from(["application/json", "text/event-stream", ""])}
    ),
    st.booleans(),
    st.none() | st.sampled_from(["10.0.0.2:8000", "elsewhere"]),
)
bodies = st.builds(Body, st.sampled_from(Phase), pieces, st.booleans())
trailers = st.builds(Trailers, st.sampled_from(Phase))
messages: st.SearchStrategy[Incoming] = st.one_of(bodies, bodies, response_headers, trailers, request_headers)


class AnyExchange(RuleBasedStateMachine):
    """A proxy that sends any message at any time."""

    @initialize(outcome=st.sampled_from(["plain", "renamed", "rejected", "broken"]), first=request_headers)
    def begin(self, outcome: str, first: RequestHeaders) -> None:
        self.director = FakeDirector(served_model="m-v2" if outcome == "renamed" else None)
        if outcome == "rejected":
            self.director.fails = Rejection(RejectReason.NO_READY_ENDPOINTS, "None.")
        elif outcome == "broken":
            self.director.fails = RuntimeError("boom")
        self.exchange = new_exchange(self.director, max_body_bytes=LIMIT)
        self.modes = (first.modes.request_body, first.modes.response_body) if first.modes else ()
        self.replies: list[Reply] = []
        self.closed = False
        self.send(first)

    def send(self, message: Incoming) -> None:
        try:
            replies = self.exchange.receive(message)
        except ProtocolViolation:
            self.finish()
        except RuntimeError:
            self.record(self.exchange.fail())
            self.finish()
        else:
            self.record(replies)
            self.check(message, replies)

    def record(self, replies: list[Reply]) -> None:
        rejected = any(isinstance(reply, ImmediateReply) for reply in self.replies)
        assert not (rejected and replies), "a reply after the immediate response"
        self.replies += replies
        for reply in replies:
            encode(reply)

    def check(self, message: Incoming, replies: list[Reply]) -> None:
        """A reply has the message's phase. Only a full-duplex proxy gets several replies to one message."""
        if DUPLEX not in self.modes:
            assert len(replies) <= 1
        phase = message.phase if isinstance(message, Body | Trailers) else None
        for reply in replies:
            if isinstance(reply, DuplexBodyReply):
                assert len(reply.data) <= DUPLEX_PIECE_BYTES
            if phase is not None and not isinstance(reply, ImmediateReply | ExtendTimeout):
                assert reply.phase is phase or isinstance(reply, HeadersReply)

    @rule(message=messages)
    def receive(self, message: Incoming) -> None:
        self.send(message)

    @precondition(lambda self: self.exchange.deadline_s is not None)
    @rule()
    def the_deadline_passes(self) -> None:
        replies = self.exchange.expire()
        assert [type(reply) for reply in replies] == [ImmediateReply]
        self.record(replies)

    @rule()
    def the_picker_fails(self) -> None:
        self.record(self.exchange.fail())

    @rule()
    def finish(self) -> None:
        """Either side ends the stream. Further messages may follow."""
        self.closed = True
        self.exchange.close()

    @invariant()
    def a_scheduled_request_ends_exactly_once(self) -> None:
        assigned = bool(self.director.requests) and self.director.fails is None
        assert len(self.director.ends) == int(assigned and self.closed)

    @invariant()
    def the_director_assigns_at_most_once(self) -> None:
        assert len(self.director.requests) <= 1

    @invariant()
    def a_destination_is_sent_at_most_once_and_only_after_an_assignment(self) -> None:
        picks = [
            reply for reply in self.replies if isinstance(reply, HeadersReply | BodyReply) and reply.changes.destination
        ]
        assert len(picks) <= 1
        if picks:
            assert self.director.requests
            assert self.director.fails is None

    @invariant()
    def headers_are_answered_once_and_first(self) -> None:
        for phase in Phase:
            kinds = [
                type(reply)
                for reply in self.replies
                if not isinstance(reply, ImmediateReply | ExtendTimeout) and reply.phase is phase
            ]
            assert kinds.count(HeadersReply) <= 1
            assert HeadersReply not in kinds[1:]

    @invariant()
    def only_the_last_piece_of_a_body_ends_the_stream(self) -> None:
        for phase in Phase:
            duplex = [reply for reply in self.replies if isinstance(reply, DuplexBodyReply) and reply.phase is phase]
            assert not any(reply.end_of_stream for reply in duplex[:-1])


TestAnyExchange = AnyExchange.TestCase
TestAnyExchange.settings = settings(max_examples=150, stateful_step_count=12)


@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, DUPLEX])
@given(data=st.binary(max_size=40), cuts=st.lists(st.integers(0, 70), max_size=4), trailers_end=st.booleans())
def test_a_body_reaches_the_server_whole_however_it_is_split(
    mode: BodyMode, data: bytes, cuts: list[int], trailers_end: bool
) -> None:
    """From the proxy's own buffer, or from the replies in full duplex. The model is renamed in both."""
    text = json.dumps({"model": "m", "prompt": data.hex()}).encode()
    exchange = new_exchange(FakeDirector(served_model="m-v2"))
    replies = exchange.receive(
        RequestHeaders({":method": "POST", ":path": "/v1/completions"}, False, None, Modes(mode, BodyMode.NONE))
    )
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)] if mode is DUPLEX else [0, len(text)]
    for start, end in pairwise(edges):
        replies += exchange.receive(
            Body(Phase.REQUEST, text[start:end], end == len(text) and start != end and not trailers_end)
        )
        if end == len(text) and start != end:
            break
    if trailers_end:
        replies += exchange.receive(Trailers(Phase.REQUEST))
        assert replies[-1] == TrailersReply(Phase.REQUEST)
    whole = b"".join(reply.data or b"" for reply in replies if isinstance(reply, DuplexBodyReply | BodyReply))
    assert json.loads(whole) == {"model": "m-v2", "prompt": data.hex()}
    assert any(isinstance(reply, DuplexBodyReply) and reply.end_of_stream for reply in replies) == (
        mode is DUPLEX and not trailers_end
    )


def proxy_messages() -> list[bytes]:
    """The messages of a proxy for a request and its streamed response."""
    request = pb.ProcessingRequest(protocol_config=pb.ProtocolConfiguration(request_body_mode=Mode.BUFFERED))
    for key, value in ((":method", "POST"), (":path", "/v1/completions"), ("content-type", "application/json")):
        request.request_headers.headers.headers.add(key=key, raw_value=value.encode())
    response = pb.ProcessingRequest()
    for key, value in ((":status", "200"), ("content-type", "text/event-stream")):
        response.response_headers.headers.headers.add(key=key, raw_value=value.encode())
    messages = [
        request,
        pb.ProcessingRequest(request_body=pb.HttpBody(body=b'{"model": "m", "prompt": "hi"}', end_of_stream=True)),
        response,
        pb.ProcessingRequest(response_body=pb.HttpBody(body=b'data: {"model": "m-v2"}\n\n')),
        pb.ProcessingRequest(response_body=pb.HttpBody(body=b"data: [DONE]\n\n", end_of_stream=True)),
        pb.ProcessingRequest(response_trailers=pb.HttpTrailers()),
    ]
    return [message.SerializeToString() for message in messages]


@st.composite
def mangled(draw: st.DrawFn) -> list[bytes]:
    """Messages that are lost, repeated, reordered or truncated, or have bytes that are changed or inserted."""
    sent = proxy_messages()
    for _ in range(draw(st.integers(0, 3))):
        index = draw(st.integers(0, len(sent) - 1))
        match draw(st.sampled_from(["drop", "repeat", "move", "byte", "cut", "insert"])):
            case "drop" if len(sent) > 1:
                del sent[index]
            case "repeat":
                sent.insert(draw(st.integers(0, len(sent))), sent[index])
            case "move":
                sent.insert(draw(st.integers(0, len(sent) - 1)), sent.pop(index))
            case "byte" if sent[index]:
                place = draw(st.integers(0, len(sent[index]) - 1))
                sent[index] = sent[index][:place] + draw(st.binary(min_size=1, max_size=1)) + sent[index][place + 1 :]
            case "cut":
                sent[index] = sent[index][: draw(st.integers(0, len(sent[index])))]
            case _:
                place = draw(st.integers(0, len(sent[index])))
                sent[index] = sent[index][:place] + draw(st.binary(max_size=4)) + sent[index][place:]
    return sent


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6) | mangled(), st.booleans())
def test_any_bytes_on_a_stream_give_replies_or_a_violation(stream: list[bytes], renames: bool) -> None:
    """Every scheduled request ends."""
    director = FakeDirector(served_model="m-v2" if renames else None)
    exchange = new_exchange(director, max_body_bytes=LIMIT)
    with suppress(ProtocolViolation):
        for data in stream:
            for reply in exchange.receive(decode(data, None)):
                encode(reply)
    exchange.close()
    assert len(director.ends) == len(director.requests)


def test_the_messages_that_are_mangled_are_valid() -> None:
    exchange = new_exchange(FakeDirector(served_model="m-v2"))
    replies = [encode(reply) for data in proxy_messages() for reply in exchange.receive(decode(data, None))]
    assert len(replies) == len(proxy_messages())
    assert b'"m-v2"' in replies[1]
    assert b'data: {"model": "m"}' in replies[3]
