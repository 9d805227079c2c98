"""The messages of an exchange with Envoy, independent of protobuf and gRPC. `codec` converts them.

They are msgspec structs: a request needs ten of them, and making a frozen dataclass takes six times as long."""

from enum import Enum, StrEnum

import msgspec


class BodyMode(StrEnum):
    """How the proxy sends bodies (`ProcessingMode.BodySendMode`)."""

    NONE = "NONE"
    STREAMED = "STREAMED"
    BUFFERED = "BUFFERED"
    BUFFERED_PARTIAL = "BUFFERED_PARTIAL"
    FULL_DUPLEX_STREAMED = "FULL_DUPLEX_STREAMED"
    GRPC = "GRPC"


class Phase(Enum):
    """The half of the HTTP exchange that a message belongs to."""

    REQUEST = "request"
    RESPONSE = "response"


class Modes(msgspec.Struct, frozen=True, gc=False):
    """The filter's body modes (`ProtocolConfiguration`, in the first message only)."""

    request_body: BodyMode
    response_body: BodyMode


class RequestHeaders(msgspec.Struct, frozen=True, gc=False):
    """The request's headers. Only `:method`, `:path` and those that `codec` reads, with names in lower case."""

    headers: dict[str, str]
    end_of_stream: bool
    subset: frozenset[str] | None = None
    """Addresses of the proxy's subset hint; None without a hint."""
    modes: Modes | None = None
    """None from a proxy that does not send them."""
    pool: str | None = None
    """`PickRequest.pool`."""


class ResponseHeaders(msgspec.Struct, frozen=True, gc=False):
    headers: dict[str, str]
    end_of_stream: bool
    served: str | None = None
    """`ip:port` of the endpoint that answered; None where the proxy does not report it."""


class Body(msgspec.Struct, frozen=True, gc=False):
    phase: Phase
    data: bytes
    end_of_stream: bool


class Trailers(msgspec.Struct, frozen=True, gc=False):
    phase: Phase


Incoming = RequestHeaders | ResponseHeaders | Body | Trailers


class ModeOverride(msgspec.Struct, frozen=True, gc=False):
    """Changes the proxy's processing mode for the rest of this exchange. Response headers and trailers are always
    sent."""

    response_body: BodyMode
    request_body: BodyMode = BodyMode.BUFFERED


class Changes(msgspec.Struct, frozen=True, gc=False):
    """Changes to a message's headers, and the destination of a request."""

    set_headers: tuple[tuple[str, str], ...] = ()
    remove_headers: tuple[str, ...] = ()
    destination: str | None = None
    """`ip:port[,ip:port...]`, best first. Sent as dynamic metadata; `set_headers` has it too."""
    clear_route_cache: bool = False


NO_CHANGES = Changes()


class HeadersReply(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    phase: Phase
    changes: Changes = NO_CHANGES
    mode: ModeOverride | None = None


class BodyReply(msgspec.Struct, frozen=True, gc=False):
    """The reply to a buffered body or a streamed chunk. `data` replaces its bytes; None keeps them."""

    phase: Phase
    changes: Changes = NO_CHANGES
    data: bytes | None = None


class DuplexBodyReply(msgspec.Struct, frozen=True, gc=False):
    """A piece of a body in full-duplex mode, in which the proxy forwards only what the picker returns."""

    phase: Phase
    data: bytes
    end_of_stream: bool


class TrailersReply(msgspec.Struct, frozen=True, gc=False):
    phase: Phase


class ImmediateReply(msgspec.Struct, frozen=True, gc=False):
    """A response to the client. The request is not forwarded."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class ExtendTimeout(msgspec.Struct, frozen=True, gc=False):
    """Extends the proxy's message timeout (`override_message_timeout`) to `wait_s` from now. Sent at most once for a
    message."""

    wait_s: float


Reply = ExtendTimeout | HeadersReply | BodyReply | DuplexBodyReply | TrailersReply | ImmediateReply


DUPLEX_PIECE_BYTES = 62_000
"""Envoy rejects full-duplex messages over 64 KiB. The difference is for the message's other fields."""


def duplex_pieces(phase: Phase, data: bytes, end_of_stream: bool) -> list[DuplexBodyReply]:
    """Splits `data` into pieces of at most `DUPLEX_PIECE_BYTES`. Without data: one empty piece with the end of the
    stream, or none without it."""
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
