"""The request half of an exchange: from the request's headers to the pick, or to a rejection."""

from dataclasses import dataclass
from enum import Enum

import msgspec
from msgspec.structs import replace

from picker.bounded_text import shorten
from picker.extproc.error_response import error_response
from picker.extproc.headers import (
    CONTROL_HEADERS,
    PREDICT_TTFT,
    names_model,
    opens_tunnel,
    pick_request,
    read_request,
    to_endpoint,
)
from picker.extproc.messages import (
    Body,
    BodyMode,
    BodyReply,
    Changes,
    DuplexBodyReply,
    ExtendTimeout,
    HeadersReply,
    ModeOverride,
    Phase,
    ProtocolViolation,
    Reply,
    RequestHeaders,
    TrailersReply,
    duplex_pieces,
)
from picker.extproc.read_headers import DEFAULT_HEADERS, ReadHeaders
from picker.rejection import Rejection, RejectReason, too_large
from picker.requestcontrol.director import Director
from picker.requestcontrol.flowcontrol.controller import FlowControl
from picker.requestcontrol.flowcontrol.queue import OnAdmitted, QueuedRequest
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import PickRequest
from picker.requestcontrol.request_body import EMPTY_BODY, content_coding, declared_bytes, rename

EXTRA_MESSAGE_TIMEOUT_S = 5.0
"""The proxy's message timeout is this much longer than the queue's time limit, so that the picker's own response comes
first. Judgement."""

BODY_TIMEOUT_S = 60.0
"""For a pause in a body that arrives in pieces. Judgement: a client that stalls longer does not finish."""

SLOWEST_BODY_BYTES_PER_S = 4 << 10
"""For a body that the proxy buffers, so that its pauses are not visible here. It may take BODY_TIMEOUT_S plus its
length at this speed. Judgement: the uplink of GPRS."""

UNDECLARED_BODY_TIMEOUT_S = 600.0
"""For a buffered body without content-length: 2.4 MiB at that speed."""

_WITHOUT_CONTROL = Changes(remove_headers=CONTROL_HEADERS)
_AWAITING_BODY = HeadersReply(Phase.REQUEST, _WITHOUT_CONTROL)
_EMPTY_PIECE = (DuplexBodyReply(Phase.REQUEST, b"", False),)
"""The reply to an empty piece. Envoy begins a tunnel with one, and forwards the headers only after the reply."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on a request, and which of its headers have an effect."""

    max_body_bytes: int = 16 << 20
    """Judgement: a prompt of 128k tokens is about half a MiB of text; images in a chat take the rest."""
    read_headers: ReadHeaders = DEFAULT_HEADERS
    predict_ttft: bool = False
    """Whether `headers.PREDICT_TTFT` has an effect."""
    only_best: bool = False
    """Whether the reply has only the best endpoint, without those for retries."""


class RequestState(Enum):
    """What the request waits for. The values are used in error messages."""

    HEADERS = "the request's headers"
    BODY = "the request's body"
    QUEUED = "an endpoint with capacity"
    FORWARDED = "the response"
    """The pick is sent, or the proxy has answered the request itself."""
    REJECTED = "nothing"


class _Complete(msgspec.Struct, frozen=True, gc=False):
    """A request whose body is complete, and that has no pick yet."""

    request: PickRequest
    data: bytes
    end_of_stream: bool
    trailers: bool


class RequestPhase:
    """The request half of an exchange. Each method returns the replies to send, in order."""

    def __init__(self, director: Director, limits: Limits, mode: BodyMode, queue: FlowControl | None) -> None:
        """`mode`: the request body mode of a proxy that does not send its modes. `queue`: None disables queueing."""
        self.state = RequestState.HEADERS
        self.queue = queue
        self.on_admitted: OnAdmitted | None = None
        self.in_flight: InFlightRequest | None = None
        """The pick; None before it, and for a request without a pick."""
        self.requested_model: str | None = None
        """The model's name as the client gave it, if it was replaced in the body; else None."""
        self.response_mode = BodyMode.NONE
        self.predicts = False
        """Whether the client requested a prediction."""
        self.not_sampled = False
        """Whether the response headers could have been requested, and were not."""
        self.body_timeout_s = BODY_TIMEOUT_S
        self._director = director
        self._limits = limits
        self._mode = mode
        self._headers: RequestHeaders | None = None
        self._body = bytearray()
        self._body_ended = False
        self._queued: QueuedRequest | None = None
        self._complete: _Complete | None = None

    def headers(self, message: RequestHeaders) -> list[Reply]:
        """Handles the request's headers. Raises ProtocolViolation."""
        if self.state is not RequestState.HEADERS:
            raise ProtocolViolation(f"request headers came when {self.state.value} was expected")
        self._headers = message
        self.predicts = self._limits.predict_ttft and PREDICT_TTFT in message.headers
        if message.modes is not None:
            self._mode = message.modes.request_body
            self.response_mode = message.modes.response_body
        length = declared_bytes(message.headers.get("content-length", ""))
        if length > self._limits.max_body_bytes:
            return self.reject(too_large(length, self._limits.max_body_bytes))
        coding = content_coding(message.headers.get("content-encoding", ""))
        if coding is not None and not message.end_of_stream and names_model(message):
            # vLLM reads a compressed body as broken JSON. Decompression would let clients cause work.
            text = f"Request bodies must not be compressed, found content-encoding {shorten(coding)}."
            return self.reject(Rejection(RejectReason.BODY_ENCODED, text))
        if message.end_of_stream or self._mode not in (BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED):
            return self._pick_without_body(message)
        if opens_tunnel(message):
            return self._pick_tunnel(message)
        self.state = RequestState.BODY
        if self._mode is BodyMode.FULL_DUPLEX_STREAMED:
            return []
        if "content-length" in message.headers:
            self.body_timeout_s = BODY_TIMEOUT_S + length / SLOWEST_BODY_BYTES_PER_S
        else:
            self.body_timeout_s = UNDECLARED_BODY_TIMEOUT_S
        override = self._response_headers_override(message)
        return [_AWAITING_BODY if override is None else HeadersReply(Phase.REQUEST, _WITHOUT_CONTROL, override)]

    def body(self, message: Body) -> list[Reply]:
        """Handles a piece of the body, or the whole body in mode BUFFERED. Raises ProtocolViolation."""
        if self.state is not RequestState.BODY:
            return self._body_after_pick(message)
        size = len(self._body) + len(message.data)
        if size > self._limits.max_body_bytes:
            return self.reject(too_large(size, self._limits.max_body_bytes))
        if self._mode is BodyMode.BUFFERED:
            # This is the whole body. Trailers may follow; the pick does not need them.
            return self._pick_with_body(message.data, message.end_of_stream)
        self._body += message.data
        return self._pick_with_body(self._take_body(), end_of_stream=True) if message.end_of_stream else []

    def trailers(self) -> list[Reply]:
        """Handles the request's trailers. Raises ProtocolViolation."""
        if self.state is RequestState.BODY:
            if self._mode is BodyMode.BUFFERED:
                # A body would have come before the trailers, and no later reply can carry the pick.
                return self.reject(Rejection(RejectReason.BODY_MISSING, "The request has no body."))
            return self._pick_with_body(self._take_body(), end_of_stream=False, trailers=True)
        if self.state is not RequestState.FORWARDED:
            raise ProtocolViolation(f"request trailers came when {self.state.value} was expected")
        return [TrailersReply(Phase.REQUEST)]

    def resume(self, rejection: Rejection | None) -> list[Reply]:
        """Schedules a request that has left the queue, or rejects it with `rejection`."""
        queued, self._queued = self._queued, None
        complete, self._complete = self._complete, None
        if self.state is not RequestState.QUEUED or complete is None:
            return []
        if rejection is not None:
            return self._reject(rejection, complete.request)
        if complete.request.slo is not None and self.queue is not None and queued is not None:
            slo = complete.request.slo.after(self.queue.waited_s(queued))
            complete = replace(complete, request=replace(complete.request, slo=slo))
        return self._pick(complete)

    def reject(self, rejection: Rejection) -> list[Reply]:
        """Rejects a request whose body is not complete or not valid."""
        headers = self._headers
        if headers is None:
            return self._reject(rejection, PickRequest(None, EMPTY_BODY, None))
        return self._reject(rejection, pick_request(headers, EMPTY_BODY, 0, self._limits.read_headers))

    def response_began(self) -> None:
        """Handles the response headers. If the request has no pick, the proxy has answered it itself."""
        self.leave_queue()
        self.state = RequestState.FORWARDED
        self.not_sampled = False

    def leave_queue(self) -> None:
        """Removes the request from the queue, if it is queued."""
        queued, self._queued, self._complete = self._queued, None, None
        if queued is not None and self.queue is not None:
            self.queue.leave(queued)

    def _response_headers_override(self, message: RequestHeaders) -> ModeOverride | None:
        """Decides whether the proxy sends the response headers. Returns the override that requests them, or None. Only
        the reply to the request's headers can have one. Always None for proxies that do not send their modes."""
        if message.modes is None or self._mode is not BodyMode.BUFFERED:
            return None
        read = self._limits.read_headers
        renames = not read.only_slo and read.model_rewrite_of(message.headers) is not None
        self.not_sampled = not (self.predicts or renames or self._director.wants_response_headers(message.pool))
        return None if self.not_sampled else ModeOverride(response_body=self.response_mode)

    def _pick_without_body(self, message: RequestHeaders) -> list[Reply]:
        """Schedules a request without a body (GET /v1/models), or whose body the proxy does not send."""
        assigned = self._director.assign(pick_request(message, EMPTY_BODY, 0, self._limits.read_headers))
        if isinstance(assigned, Rejection):
            return self._answer(assigned)
        self.in_flight, self.state = assigned, RequestState.FORWARDED
        changes = to_endpoint(assigned, self._mode, body=False, only_best=self._limits.only_best)
        return [HeadersReply(Phase.REQUEST, changes, self._response_headers_override(message))]

    def _pick_tunnel(self, message: RequestHeaders) -> list[Reply]:
        """Schedules a request whose body may end after the response begins. The proxy forwards the body unbuffered."""
        replies = self._pick_without_body(message)
        if self._mode is not BodyMode.BUFFERED or self.in_flight is None:
            return replies
        self._mode = BodyMode.NONE
        override = ModeOverride(self.response_mode, request_body=BodyMode.NONE)
        changes = to_endpoint(self.in_flight, BodyMode.NONE, body=False, only_best=self._limits.only_best)
        return [HeadersReply(Phase.REQUEST, changes, override)]

    def _take_body(self) -> bytes:
        data = bytes(self._body)
        self._body.clear()
        return data

    def _body_after_pick(self, message: Body) -> list[Reply]:
        """Handles a body that is not needed for the pick, or that comes after the response began. Envoy may send the
        end of the stream twice (observed with bodies above 1 MB)."""
        if self.state is RequestState.HEADERS:
            raise ProtocolViolation(f"a request body came when {self.state.value} was expected")
        if self._body_ended:
            if message.data:
                raise ProtocolViolation("a request body came after its end")
            return []
        self._body_ended = message.end_of_stream
        if self._mode is BodyMode.FULL_DUPLEX_STREAMED:
            return list(duplex_pieces(Phase.REQUEST, message.data, message.end_of_stream) or _EMPTY_PIECE)
        return [BodyReply(Phase.REQUEST)]

    def _pick_with_body(self, data: bytes, end_of_stream: bool, trailers: bool = False) -> list[Reply]:
        headers = self._headers
        assert headers is not None
        self._body_ended = True
        # Whether an empty body is valid is the server's decision, on every path.
        read = read_request(headers, data) if data else EMPTY_BODY
        if isinstance(read, Rejection):
            return self.reject(read)
        request = pick_request(headers, read, len(data), self._limits.read_headers)
        complete = _Complete(request, data, end_of_stream, trailers)
        if self.queue is None or self.on_admitted is None:
            return self._pick(complete)
        queued = self.queue.join(request, self.on_admitted)
        if queued is None:
            return self._pick(complete)
        if isinstance(queued, Rejection):
            return self._reject(queued, request)
        self.state, self._queued, self._complete = RequestState.QUEUED, queued, complete
        return [ExtendTimeout(queued.time_limit_s + EXTRA_MESSAGE_TIMEOUT_S)]

    def _pick(self, complete: _Complete) -> list[Reply]:
        assigned = self._director.assign(complete.request)
        if isinstance(assigned, Rejection):
            return self._answer(assigned)
        self.in_flight, self.state = assigned, RequestState.FORWARDED
        body, data = complete.request.body, complete.data
        renamed: bytes | None = None
        if assigned.served_model is not None and body.model is not None:
            self.requested_model = body.model
            renamed = rename(body, data, assigned.served_model)
        renamed_bytes = len(renamed) if renamed is not None else None
        changes = to_endpoint(
            assigned, self._mode, body=True, renamed_bytes=renamed_bytes, only_best=self._limits.only_best
        )
        if self._mode is BodyMode.BUFFERED:
            return [BodyReply(Phase.REQUEST, changes, renamed)]
        pieces = duplex_pieces(Phase.REQUEST, data if renamed is None else renamed, complete.end_of_stream)
        last = [TrailersReply(Phase.REQUEST)] if complete.trailers else []
        return [HeadersReply(Phase.REQUEST, changes), *pieces, *last]

    def _reject(self, rejection: Rejection, request: PickRequest) -> list[Reply]:
        """Rejects a request without a call of `Director.assign`."""
        self._director.report_rejected(request, rejection)
        return self._answer(rejection)

    def _answer(self, rejection: Rejection) -> list[Reply]:
        self.leave_queue()
        self.state = RequestState.REJECTED
        self._body.clear()
        return [error_response(rejection)]
