"""Requests whose body may end only after their answer has begun: upgrades, CONNECT, gRPC."""

import pytest
from exchange_conversation import ENDPOINTS, FakeDirector, exchange
from picker.extproc.messages import (
    Body,
    BodyMode,
    BodyReply,
    DuplexBodyReply,
    HeadersReply,
    ModeOverride,
    Modes,
    Phase,
    RequestHeaders,
    ResponseHeaders,
)

DUPLEX = BodyMode.FULL_DUPLEX_STREAMED
WEBSOCKET = {"connection": "keep-alive, Upgrade", "upgrade": "websocket"}


def message(method: str, path: str, mode: BodyMode, more: dict[str, str]) -> RequestHeaders:
    answer_mode = DUPLEX if mode is DUPLEX else BodyMode.NONE
    return RequestHeaders({":method": method, ":path": path, **more}, False, None, Modes(mode, answer_mode))


def tunnel(kind: str, mode: BodyMode = BodyMode.BUFFERED) -> RequestHeaders:
    match kind:
        case "websocket":
            return message("GET", "/v1/realtime", mode, WEBSOCKET)
        case "upgraded POST":
            return message("POST", "/v1/realtime", mode, {**WEBSOCKET, "content-length": "2"})
        case "CONNECT":
            return message("CONNECT", "", mode, {})
        case _:
            return message("POST", "/vllm.Service/Generate", mode, {"content-type": "application/grpc+proto"})


KINDS = ["websocket", "upgraded POST", "CONNECT", "gRPC"]


@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tunnel_is_picked_by_its_headers(kind: str, sees: bool) -> None:
    """And the proxy stops keeping the body, which has no end yet."""
    talk = exchange(FakeDirector(samples=sees))
    [reply] = talk.receive(tunnel(kind))
    assert isinstance(reply, HeadersReply)
    assert reply.changes.destination == ENDPOINTS
    assert reply.mode == ModeOverride(BodyMode.NONE, request_body=BodyMode.NONE)
    assert talk.deadline_s is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_tunnel_through_the_picker_is_passed_on_piece_by_piece(kind: str) -> None:
    """In both directions, before and after the answer has begun."""
    talk = exchange(FakeDirector())
    [reply] = talk.receive(tunnel(kind, DUPLEX))
    assert isinstance(reply, HeadersReply)
    assert reply.changes.destination == ENDPOINTS
    assert reply.mode is None
    # Envoy begins with an empty piece, and waits for the answer to it.
    assert talk.receive(Body(Phase.REQUEST, b"", False)) == [DuplexBodyReply(Phase.REQUEST, b"", False)]
    assert talk.receive(Body(Phase.REQUEST, b"a", False)) == [DuplexBodyReply(Phase.REQUEST, b"a", False)]
    talk.receive(ResponseHeaders({":status": "101"}, False))
    assert talk.receive(Body(Phase.RESPONSE, b"", False)) == [DuplexBodyReply(Phase.RESPONSE, b"", False)]
    assert talk.receive(Body(Phase.REQUEST, b"b", True)) == [DuplexBodyReply(Phase.REQUEST, b"b", True)]


def test_a_proxy_that_goes_on_showing_the_body_is_answered() -> None:
    """One that does not know how to change its mode."""
    talk = exchange(FakeDirector())
    talk.receive(tunnel("websocket"))
    assert talk.receive(Body(Phase.REQUEST, b"a", True)) == [BodyReply(Phase.REQUEST)]


@pytest.mark.parametrize(
    "more",
    [
        {"upgrade": "websocket"},
        {"connection": "upgrade"},
        {"connection": "close", "upgrade": "websocket"},
        {"content-type": "application/grpc"},
    ],
)
def test_what_only_looks_like_a_tunnel_is_read(more: dict[str, str]) -> None:
    """Otherwise a client could keep its body from being judged."""
    talk = exchange(FakeDirector())
    [reply] = talk.receive(message("POST", "/v1/completions", BodyMode.BUFFERED, more))
    assert isinstance(reply, HeadersReply)
    assert reply.changes.destination is None
    assert talk.deadline_s is not None
