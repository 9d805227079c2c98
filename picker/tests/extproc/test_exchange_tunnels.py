"""Requests whose body may end only after the response begins: upgrades, CONNECT, gRPC."""

import pytest
from exchange_conversation import ENDPOINTS, FakeDirector, new_exchange
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
    response_mode = DUPLEX if mode is DUPLEX else BodyMode.NONE
    return RequestHeaders({":method": method, ":path": path, **more}, False, None, Modes(mode, response_mode))


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


@pytest.mark.parametrize("samples", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tunnel_is_picked_by_its_headers(kind: str, samples: bool) -> None:
    """The override stops the proxy from buffering the body."""
    exchange = new_exchange(FakeDirector(samples=samples))
    [reply] = exchange.receive(tunnel(kind))
    assert isinstance(reply, HeadersReply)
    assert reply.changes.destination == ENDPOINTS
    assert reply.mode == ModeOverride(BodyMode.NONE, request_body=BodyMode.NONE)
    assert exchange.deadline_s is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_duplex_tunnel_is_passed_on_in_pieces(kind: str) -> None:
    """In both directions, before and after the response begins."""
    exchange = new_exchange(FakeDirector())
    [reply] = exchange.receive(tunnel(kind, DUPLEX))
    assert isinstance(reply, HeadersReply)
    assert reply.changes.destination == ENDPOINTS
    assert reply.mode is None
    # Envoy begins with an empty piece, and waits for the reply to it.
    assert exchange.receive(Body(Phase.REQUEST, b"", False)) == [DuplexBodyReply(Phase.REQUEST, b"", False)]
    assert exchange.receive(Body(Phase.REQUEST, b"a", False)) == [DuplexBodyReply(Phase.REQUEST, b"a", False)]
    exchange.receive(ResponseHeaders({":status": "101"}, False))
    assert exchange.receive(Body(Phase.RESPONSE, b"", False)) == [DuplexBodyReply(Phase.RESPONSE, b"", False)]
    assert exchange.receive(Body(Phase.REQUEST, b"b", True)) == [DuplexBodyReply(Phase.REQUEST, b"b", True)]


def test_a_proxy_that_ignores_the_override_gets_replies_to_the_body() -> None:
    exchange = new_exchange(FakeDirector())
    exchange.receive(tunnel("websocket"))
    assert exchange.receive(Body(Phase.REQUEST, b"a", True)) == [BodyReply(Phase.REQUEST)]


@pytest.mark.parametrize(
    "more",
    [
        {"upgrade": "websocket"},
        {"connection": "upgrade"},
        {"connection": "close", "upgrade": "websocket"},
        {"content-type": "application/grpc"},
    ],
)
def test_a_request_that_resembles_a_tunnel_is_read(more: dict[str, str]) -> None:
    """Otherwise a client could bypass the checks of its body."""
    exchange = new_exchange(FakeDirector())
    [reply] = exchange.receive(message("POST", "/v1/completions", BodyMode.BUFFERED, more))
    assert isinstance(reply, HeadersReply)
    assert reply.changes.destination is None
    assert exchange.deadline_s is not None
