"""Any sequence of messages in any mode gets defined replies or a violation, and every request is ended once."""

import json
from contextlib import suppress
from itertools import pairwise

import pytest
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from exchange_conversation import FakeDirector, exchange
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


class AnyConversation(RuleBasedStateMachine):
    """A proxy that says anything, at any time."""

    @initialize(answer=st.sampled_from(["plain", "renamed", "rejected", "broken"]), first=request_headers)
    def begin(self, answer: str, first: RequestHeaders) -> None:
        self.director = FakeDirector(served_model="m-v2" if answer == "renamed" else None)
        if answer == "rejected":
            self.director.fails = Rejection(RejectReason.NO_READY_ENDPOINTS, "None.")
        elif answer == "broken":
            self.director.fails = RuntimeError("boom")
        self.talk = exchange(self.director, max_body_bytes=LIMIT)
        self.modes = (first.modes.request_body, first.modes.response_body) if first.modes else ()
        self.replies: list[Reply] = []
        self.over = False
        self.say(first)

    def say(self, message: Incoming) -> None:
        try:
            replies = self.talk.receive(message)
        except ProtocolViolation:
            self.finish()
        except RuntimeError:
            self.heard(self.talk.fail())
            self.finish()
        else:
            self.heard(replies)
            self.answers(message, replies)

    def heard(self, replies: list[Reply]) -> None:
        refused = any(isinstance(each, ImmediateReply) for each in self.replies)
        assert not (refused and replies), "something was said after the client was answered"
        self.replies += replies
        for each in replies:
            encode(each)

    def answers(self, message: Incoming, replies: list[Reply]) -> None:
        """A reply belongs to the message's phase, and only a proxy that hands bodies over gets several to one."""
        if DUPLEX not in self.modes:
            assert len(replies) <= 1
        phase = message.phase if isinstance(message, Body | Trailers) else None
        for each in replies:
            if isinstance(each, DuplexBodyReply):
                assert len(each.data) <= DUPLEX_PIECE_BYTES
            if phase is not None and not isinstance(each, ImmediateReply | ExtendTimeout):
                assert each.phase is phase or isinstance(each, HeadersReply)

    @rule(message=messages)
    def receive(self, message: Incoming) -> None:
        self.say(message)

    @precondition(lambda self: self.talk.deadline_s is not None)
    @rule()
    def the_deadline_passes(self) -> None:
        replies = self.talk.expire()
        assert [type(each) for each in replies] == [ImmediateReply]
        self.heard(replies)

    @rule()
    def the_picker_fails(self) -> None:
        self.heard(self.talk.fail())

    @rule()
    def finish(self) -> None:
        """The stream ends, by either side; more may have been on its way."""
        self.over = True
        self.talk.close()

    @invariant()
    def the_request_is_counted_out_exactly_once(self) -> None:
        assigned = bool(self.director.requests) and self.director.fails is None
        assert len(self.director.ends) == int(assigned and self.over)

    @invariant()
    def nobody_is_asked_twice(self) -> None:
        assert len(self.director.requests) <= 1

    @invariant()
    def a_destination_is_named_once_and_only_with_an_assignment(self) -> None:
        named = [
            each for each in self.replies if isinstance(each, HeadersReply | BodyReply) and each.changes.destination
        ]
        assert len(named) <= 1
        if named:
            assert self.director.requests
            assert self.director.fails is None

    @invariant()
    def headers_are_answered_once_and_first(self) -> None:
        for phase in Phase:
            kinds = [
                type(each)
                for each in self.replies
                if not isinstance(each, ImmediateReply | ExtendTimeout) and each.phase is phase
            ]
            assert kinds.count(HeadersReply) <= 1
            assert HeadersReply not in kinds[1:]

    @invariant()
    def the_end_of_a_body_is_told_once_and_last(self) -> None:
        for phase in Phase:
            duplex = [each for each in self.replies if isinstance(each, DuplexBodyReply) and each.phase is phase]
            assert not any(each.end_of_stream for each in duplex[:-1])


TestAnyConversation = AnyConversation.TestCase
TestAnyConversation.settings = settings(max_examples=150, stateful_step_count=12)


@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, DUPLEX])
@given(data=st.binary(max_size=40), cuts=st.lists(st.integers(0, 70), max_size=4), trailers_end=st.booleans())
def test_a_body_reaches_the_server_whole_however_it_is_cut(
    mode: BodyMode, data: bytes, cuts: list[int], trailers_end: bool
) -> None:
    """By the proxy itself where it keeps the body, by the replies where it does not; the model renamed on the way."""
    text = json.dumps({"model": "m", "prompt": data.hex()}).encode()
    talk = exchange(FakeDirector(served_model="m-v2"))
    replies = talk.receive(
        RequestHeaders({":method": "POST", ":path": "/v1/completions"}, False, None, Modes(mode, BodyMode.NONE))
    )
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)] if mode is DUPLEX else [0, len(text)]
    for start, end in pairwise(edges):
        replies += talk.receive(
            Body(Phase.REQUEST, text[start:end], end == len(text) and start != end and not trailers_end)
        )
        if end == len(text) and start != end:
            break
    if trailers_end:
        replies += talk.receive(Trailers(Phase.REQUEST))
        assert replies[-1] == TrailersReply(Phase.REQUEST)
    whole = b"".join(each.data or b"" for each in replies if isinstance(each, DuplexBodyReply | BodyReply))
    assert json.loads(whole) == {"model": "m-v2", "prompt": data.hex()}
    assert any(isinstance(each, DuplexBodyReply) and each.end_of_stream for each in replies) == (
        mode is DUPLEX and not trailers_end
    )


def conversation() -> list[bytes]:
    """A request and its streamed answer, as the proxy says them."""
    request = pb.ProcessingRequest(protocol_config=pb.ProtocolConfiguration(request_body_mode=Mode.BUFFERED))
    for key, value in ((":method", "POST"), (":path", "/v1/completions"), ("content-type", "application/json")):
        request.request_headers.headers.headers.add(key=key, raw_value=value.encode())
    response = pb.ProcessingRequest()
    for key, value in ((":status", "200"), ("content-type", "text/event-stream")):
        response.response_headers.headers.headers.add(key=key, raw_value=value.encode())
    said = [
        request,
        pb.ProcessingRequest(request_body=pb.HttpBody(body=b'{"model": "m", "prompt": "hi"}', end_of_stream=True)),
        response,
        pb.ProcessingRequest(response_body=pb.HttpBody(body=b'data: {"model": "m-v2"}\n\n')),
        pb.ProcessingRequest(response_body=pb.HttpBody(body=b"data: [DONE]\n\n", end_of_stream=True)),
        pb.ProcessingRequest(response_trailers=pb.HttpTrailers()),
    ]
    return [message.SerializeToString() for message in said]


@st.composite
def mangled(draw: st.DrawFn) -> list[bytes]:
    """A conversation with messages lost, said twice or out of order, and bytes of them changed, cut out or put in."""
    said = conversation()
    for _ in range(draw(st.integers(0, 3))):
        index = draw(st.integers(0, len(said) - 1))
        match draw(st.sampled_from(["drop", "repeat", "move", "byte", "cut", "insert"])):
            case "drop" if len(said) > 1:
                del said[index]
            case "repeat":
                said.insert(draw(st.integers(0, len(said))), said[index])
            case "move":
                said.insert(draw(st.integers(0, len(said) - 1)), said.pop(index))
            case "byte" if said[index]:
                place = draw(st.integers(0, len(said[index]) - 1))
                said[index] = said[index][:place] + draw(st.binary(min_size=1, max_size=1)) + said[index][place + 1 :]
            case "cut":
                said[index] = said[index][: draw(st.integers(0, len(said[index])))]
            case _:
                place = draw(st.integers(0, len(said[index])))
                said[index] = said[index][:place] + draw(st.binary(max_size=4)) + said[index][place:]
    return said


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6) | mangled(), st.booleans())
def test_any_bytes_on_a_stream_end_in_replies_or_a_violation(stream: list[bytes], renames: bool) -> None:
    """From the wire to the wire, and nothing stays counted."""
    director = FakeDirector(served_model="m-v2" if renames else None)
    talk = exchange(director, max_body_bytes=LIMIT)
    with suppress(ProtocolViolation):
        for data in stream:
            for reply in talk.receive(decode(data, None)):
                encode(reply)
    talk.close()
    assert len(director.ends) == len(director.requests)


def test_the_conversation_that_is_mangled_is_a_good_one() -> None:
    """So that most of it is understood."""
    talk = exchange(FakeDirector(served_model="m-v2"))
    said = [encode(reply) for data in conversation() for reply in talk.receive(decode(data, None))]
    assert len(said) == len(conversation())
    assert b'"m-v2"' in said[1]
    assert b'data: {"model": "m"}' in said[3]
