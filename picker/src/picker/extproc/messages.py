"""The messages of an exchange with Envoy, without their wire form. `codec` turns the protocol's protobuf into these and
back, so that neither the exchange nor its tests know protobuf, let alone gRPC.

They are msgspec's structs because a request needs ten of them, and a frozen dataclass takes six times as long."""

from enum import Enum, StrEnum

import msgspec


class BodyMode(StrEnum):
    """How the proxy hands over bodies (`ProcessingMode.BodySendMode`)."""

    NONE = "NONE"
    STREAMED = "STREAMED"
    BUFFERED = "BUFFERED"
    BUFFERED_PARTIAL = "BUFFERED_PARTIAL"
    FULL_DUPLEX_STREAMED = "FULL_DUPLEX_STREAMED"
    GRPC = "GRPC"


class Phase(Enum):
    """Which half of the HTTP exchange a message is about."""

    REQUEST = "request"
    RESPONSE = "response"


class Modes(msgspec.Struct, frozen=True, gc=False):
    """The body modes the filter runs with (`ProtocolConfiguration`, first message only)."""

    request_body: BodyMode
    response_body: BodyMode


class RequestHeaders(msgspec.Struct, frozen=True, gc=False):
    """`:method`, `:path` and the few headers that matter here; names in lower case."""

    headers: dict[str, str]
    end_of_stream: bool
    subset: frozenset[str] | None = None
    """The proxy's subset hint; None when it gave none."""
    modes: Modes | None = None
    pool: str | None = None


class ResponseHeaders(msgspec.Struct, frozen=True, gc=False):
    headers: dict[str, str]
    end_of_stream: bool
    served: str | None = None
    """`ip:port` that answered, as the proxy reports it."""


class Body(msgspec.Struct, frozen=True, gc=False):
    phase: Phase
    data: bytes
    end_of_stream: bool


class Trailers(msgspec.Struct, frozen=True, gc=False):
    phase: Phase


Incoming = RequestHeaders | ResponseHeaders | Body | Trailers


class ModeOverride(msgspec.Struct, frozen=True, gc=False):
    """What the proxy sends from here on, for this exchange alone: response headers and trailers, and this."""

    response_body: BodyMode
    request_body: BodyMode = BodyMode.BUFFERED


class Changes(msgspec.Struct, frozen=True, gc=False):
    """What shall become of the message's headers, and where the request shall go."""

    set_headers: tuple[tuple[str, str], ...] = ()
    remove_headers: tuple[str, ...] = ()
    destination: str | None = None
    """`ip:port[,ip:port...]`, best first: given both as a header and as dynamic metadata."""
    clear_route_cache: bool = False


NO_CHANGES = Changes()


class HeadersReply(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    phase: Phase
    changes: Changes = NO_CHANGES
    mode: ModeOverride | None = None


class BodyReply(msgspec.Struct, frozen=True, gc=False):
    """Answer to a buffered or streamed chunk; `data` replaces its bytes, None leaves them alone."""

    phase: Phase
    changes: Changes = NO_CHANGES
    data: bytes | None = None


class DuplexBodyReply(msgspec.Struct, frozen=True, gc=False):
    """A piece of the body on its way on in full-duplex mode, where everything goes through the processor."""

    phase: Phase
    data: bytes
    end_of_stream: bool


class TrailersReply(msgspec.Struct, frozen=True, gc=False):
    phase: Phase


class ImmediateReply(msgspec.Struct, frozen=True, gc=False):
    """The client's answer: the request goes nowhere."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class ExtendTimeout(msgspec.Struct, frozen=True, gc=False):
    """The reply comes later; the proxy shall wait for it this long from now. Said at most once for a message."""

    wait_s: float


Reply = ExtendTimeout | HeadersReply | BodyReply | DuplexBodyReply | TrailersReply | ImmediateReply


DUPLEX_PIECE_BYTES = 62_000
"""Envoy takes no full-duplex message over 64 KiB; the rest of the message needs some of that."""


def duplex_pieces(phase: Phase, data: bytes, end_of_stream: bool) -> list[DuplexBodyReply]:
    """`data` in pieces that the proxy takes; one empty piece where only the end is to be told, none where nothing
    is."""
    if not data:
        return [DuplexBodyReply(phase, b"", True)] if end_of_stream else []
    starts = range(0, len(data), DUPLEX_PIECE_BYTES)
    last = starts[-1]
    return [
        DuplexBodyReply(phase, data[start : start + DUPLEX_PIECE_BYTES], end_of_stream and start == last)
        for start in starts
    ]


class ProtocolViolation(Exception):
    """The proxy sent a message that the protocol does not allow at this point."""
