"""The messages of an exchange with Envoy, without their wire form. `codec` turns the protocol's protobuf into these and
back, so that neither the exchange nor its tests know protobuf, let alone gRPC."""

from dataclasses import dataclass
from enum import Enum, StrEnum


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


@dataclass(frozen=True, slots=True)
class Modes:
    """The body modes the filter runs with (`ProtocolConfiguration`, first message only)."""

    request_body: BodyMode
    response_body: BodyMode


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """`:method`, `:path` and the few headers that matter here; names in lower case."""

    headers: dict[str, str]
    end_of_stream: bool
    subset: frozenset[str] | None = None
    """The proxy's subset hint; None when it gave none."""
    modes: Modes | None = None
    pool: str | None = None


@dataclass(frozen=True, slots=True)
class ResponseHeaders:
    headers: dict[str, str]
    end_of_stream: bool
    served: str | None = None
    """`ip:port` that answered, as the proxy reports it."""


@dataclass(frozen=True, slots=True)
class Body:
    phase: Phase
    data: bytes
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class Trailers:
    phase: Phase


Incoming = RequestHeaders | ResponseHeaders | Body | Trailers


@dataclass(frozen=True, slots=True)
class ModeOverride:
    """What the proxy shall send from here on, for this exchange alone."""

    response_headers: bool
    response_body: BodyMode


@dataclass(frozen=True, slots=True)
class Changes:
    """What shall become of the message's headers, and where the request shall go."""

    set_headers: tuple[tuple[str, str], ...] = ()
    remove_headers: tuple[str, ...] = ()
    destination: str | None = None
    """`ip:port[,ip:port...]`, best first: given both as a header and as dynamic metadata."""
    clear_route_cache: bool = False


NO_CHANGES = Changes()


@dataclass(frozen=True, slots=True)
class HeadersReply:
    phase: Phase
    changes: Changes = NO_CHANGES
    mode: ModeOverride | None = None


@dataclass(frozen=True, slots=True)
class BodyReply:
    """Answer to a buffered or streamed chunk; `data` replaces its bytes, None leaves them alone."""

    phase: Phase
    changes: Changes = NO_CHANGES
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class DuplexBodyReply:
    """A piece of the body on its way on in full-duplex mode, where everything goes through the processor."""

    phase: Phase
    data: bytes
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class TrailersReply:
    phase: Phase


@dataclass(frozen=True, slots=True)
class ImmediateReply:
    """The client's answer: the request goes nowhere."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


Reply = HeadersReply | BodyReply | DuplexBodyReply | TrailersReply | ImmediateReply


class ProtocolViolation(Exception):
    """The proxy sent a message that the protocol does not allow at this point."""
