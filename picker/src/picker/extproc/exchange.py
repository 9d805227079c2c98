"""One HTTP request's conversation with Envoy, as a state machine: messages in, messages out, no I/O and no clock.

    headers ──► (body ... body) ──► picked ──► (response headers ──► (response body ... )) ──► closed
                            │   └─► refused: an immediate reply, and nothing more is expected
                            └─► held, until its turn comes or its time is over

The proxy's body mode decides when the request's headers may be answered. BUFFERED: at once, or the body never comes;
the pick goes with the answer to the body. FULL_DUPLEX_STREAMED: only with the pick, or the request is routed before it;
the body then has to be handed back piece by piece. A body whose end may come after the answer's beginning (an upgrade)
is not waited for: the pick goes with the answer to the headers. A stream that ends, by the response's end or by the
client's leaving, ends the request's count in the ledger. Response headers come where the picker asks for them, with
the answer to the request's own, and from proxies that show them anyhow.
"""

from dataclasses import dataclass

import msgspec

from picker.bounded_text import shorten
from picker.extproc.error_response import error_response
from picker.extproc.exchange_state import AFTER_PICK, BEFORE_ANSWER, ExchangeState
from picker.extproc.headers import (
    CONTROL_HEADERS,
    PREDICT_TTFT,
    names_model,
    opens_tunnel,
    prediction_headers,
    read_request,
    to_endpoint,
    wanted,
)
from picker.extproc.messages import (
    Body,
    BodyMode,
    BodyReply,
    Changes,
    DuplexBodyReply,
    ExtendTimeout,
    HeadersReply,
    Incoming,
    ModeOverride,
    Phase,
    ProtocolViolation,
    Reply,
    RequestHeaders,
    ResponseHeaders,
    Trailers,
    TrailersReply,
    duplex_pieces,
)
from picker.extproc.response_model import ResponseKind, ResponseModelRewriter
from picker.requestcontrol.interfaces import Assignment, Desk, OnAdmitted, Place, Queue, Wanted
from picker.requestcontrol.rejection import Reason, Rejection, too_large
from picker.requestcontrol.request_body import EMPTY_BODY, content_coding, declared_bytes, rename

EXTRA_MESSAGE_TIMEOUT_S = 5.0
"""The proxy is asked to wait this much longer than a request may be held, so that the answer is the picker's."""

BODY_TIMEOUT_S = 60.0
"""For a pause in a body that comes in pieces. A client that stalls longer is not going to finish."""

SLOWEST_BODY_BYTES_PER_S = 4 << 10
"""Of a body that the proxy keeps until it is whole, so that its pauses cannot be seen: it gets BODY_TIMEOUT_S, and the
time that its length takes at this speed, the uplink of an old mobile network (GPRS)."""

UNDECLARED_BODY_TIMEOUT_S = 600.0
"""The same for a body whose length is not declared: 2.4 MiB at that speed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may cost, and which of its headers are obeyed."""

    max_body_bytes: int = 16 << 20
    """A 128k-token prompt is about half a MiB of text; images in a chat take the rest."""
    trusted_headers: frozenset[str] = frozenset()
    """Of `protocol.OBJECTIVE` and `protocol.FAIRNESS_ID`: a proxy or a policy in front of the gateway sets them."""
    predict_ttft: bool = False
    """Whether `headers.PREDICT_TTFT` is answered."""


class _Pick(msgspec.Struct, frozen=True, gc=False):
    """A request that was read whole, and waits for its pick."""

    wanted: Wanted
    data: bytes
    end_of_stream: bool
    trailers: bool


_WITHOUT_CONTROL = Changes(remove_headers=CONTROL_HEADERS)
_EMPTY_PIECE = (DuplexBodyReply(Phase.REQUEST, b"", False),)
"""What an empty piece is answered with: Envoy begins a tunnel with one, and sends no headers on before its answer."""

_AWAITING_BODY = HeadersReply(Phase.REQUEST, _WITHOUT_CONTROL)


class Exchange:
    """See the module. Feed it every message, then `close` it, whatever happened."""

    def __init__(
        self,
        desk: Desk,
        limits: Limits,
        fallback_mode: BodyMode = BodyMode.BUFFERED,
        queue: Queue | None = None,
    ) -> None:
        """`fallback_mode`: the request body mode of a proxy that does not tell (Envoy tells since 1.34). With a `queue`
        requests may be held: set `on_admitted`, which is called when `resume` is to be."""
        self._desk = desk
        self.queue = queue
        self.on_admitted: OnAdmitted | None = None
        self._place: Place | None = None
        self._held: _Pick | None = None
        self._limits = limits
        self._request_mode = fallback_mode
        self._response_mode = BodyMode.NONE
        self._state = ExchangeState.START
        self._request: RequestHeaders | None = None
        self._body = bytearray()
        self._body_ended = False
        self._body_timeout_s = BODY_TIMEOUT_S
        self._asked_model: str | None = None
        self._assignment: Assignment | None = None
        self._restorer: ResponseModelRewriter | None = None
        self._not_sampled = False

    @property
    def deadline_s(self) -> float | None:
        """How long to wait for the next message before `expire` must be called; None: as long as it takes."""
        return self._body_timeout_s if self._state is ExchangeState.BODY else None

    @property
    def settled(self) -> bool:
        """Whether the proxy could do without the rest: the pick is out and the answer need not pass through here."""
        return self._state is ExchangeState.REFUSED or (
            self._state in AFTER_PICK
            and self._asked_model is None
            and self._response_mode is not BodyMode.FULL_DUPLEX_STREAMED
        )

    def receive(self, message: Incoming) -> list[Reply]:
        """The replies to `message`, in order. Raises ProtocolViolation."""
        if self._state is ExchangeState.REFUSED:
            # Pieces of a body that were on their way when the client was answered.
            return []
        match message:
            case RequestHeaders():
                return self._request_headers(message)
            case Body(phase=Phase.REQUEST):
                return self._request_body(message)
            case Trailers(phase=Phase.REQUEST):
                return self._request_trailers(message)
            case ResponseHeaders():
                return self._response_headers(message)
            case Body():
                return self._response_body(message)
            case Trailers():
                return self._response_trailers(message)

    def resume(self, refusal: Rejection | None) -> list[Reply]:
        """The turn of a request that was held has come, or `refusal` in its stead: its replies."""
        held, self._held, self._place = self._held, None, None
        if self._state is not ExchangeState.HELD or held is None:
            return []
        self._state = ExchangeState.BODY
        return self._refuse(refusal, held.wanted) if refusal is not None else self._pick(held)

    def expire(self) -> list[Reply]:
        """The deadline has passed."""
        return self._refuse(
            Rejection(
                408, Reason.BODY_TIMEOUT, f"The request body did not arrive within {self._body_timeout_s:.0f} seconds."
            )
        )

    def fail(self) -> list[Reply]:
        """An error in the picker itself: answer for it if nothing has been answered yet."""
        if self._state in (ExchangeState.START, ExchangeState.BODY, ExchangeState.HELD):
            return self._refuse(Rejection(500, Reason.INTERNAL, "The endpoint picker failed on this request."))
        return []

    def close(self) -> None:
        """The stream has ended. Nothing is answered from here on."""
        self._leave()
        self.on_admitted = None  # Who is called holds this.
        assignment, self._assignment = self._assignment, None
        self._state = ExchangeState.REFUSED
        if assignment is not None:
            assignment.end(not_sampled=self._not_sampled)

    def _leave(self) -> None:
        place, self._place, self._held = self._place, None, None
        if place is not None:
            place.leave()

    def _unexpected(self, what: str) -> ProtocolViolation:
        return ProtocolViolation(f"{what} came when {self._state.value} was expected")

    def _request_headers(self, message: RequestHeaders) -> list[Reply]:
        if self._state is not ExchangeState.START:
            raise self._unexpected("request headers")
        self._request = message
        if message.modes is not None:
            self._request_mode = message.modes.request_body
            self._response_mode = message.modes.response_body
        length = declared_bytes(message.headers.get("content-length", ""))
        if length > self._limits.max_body_bytes:
            return self._refuse(too_large(length, self._limits.max_body_bytes))
        coding = content_coding(message.headers.get("content-encoding", ""))
        if coding is not None and not message.end_of_stream and names_model(message):
            # Model servers read none (vLLM takes it for broken JSON), and unpacking is work that clients could impose.
            return self._refuse(
                Rejection(
                    415,
                    Reason.BODY_ENCODED,
                    f"Request bodies must not be compressed, found content-encoding {shorten(coding)}.",
                )
            )
        if message.end_of_stream or self._request_mode not in (BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED):
            return self._pick_without_body(message)
        if opens_tunnel(message):
            return self._pick_tunnel(message)
        self._state = ExchangeState.BODY
        if self._request_mode is BodyMode.FULL_DUPLEX_STREAMED:
            return []
        if "content-length" in message.headers:
            self._body_timeout_s = BODY_TIMEOUT_S + length / SLOWEST_BODY_BYTES_PER_S
        else:
            self._body_timeout_s = UNDECLARED_BODY_TIMEOUT_S
        showing = self._showing_answer(message)
        return [_AWAITING_BODY if showing is None else HeadersReply(Phase.REQUEST, _WITHOUT_CONTROL, showing)]

    def _showing_answer(self, message: RequestHeaders) -> ModeOverride | None:
        """What makes the proxy show how the answer begins, if that is of use; it can be told now and no more later. To
        proxies that do not tell how they run nothing is said."""
        if message.modes is None or self._request_mode is not BodyMode.BUFFERED:
            return None
        self._not_sampled = not (self._predicts(message) or self._desk.wants_response_headers(message.pool))
        return None if self._not_sampled else ModeOverride(response_body=self._response_mode)

    def _predicts(self, message: RequestHeaders) -> bool:
        return self._limits.predict_ttft and PREDICT_TTFT in message.headers

    def _pick_without_body(self, message: RequestHeaders) -> list[Reply]:
        """Requests without a body (GET /v1/models, POST /v1/responses/ID/cancel), or whose body is not shown."""
        assigned = self._assign(wanted(message, EMPTY_BODY, 0, self._limits.trusted_headers))
        if isinstance(assigned, Rejection):
            return self._answer(assigned)
        changes = to_endpoint(assigned, self._request_mode, body=False)
        return [HeadersReply(Phase.REQUEST, changes, self._showing_answer(message))]

    def _pick_tunnel(self, message: RequestHeaders) -> list[Reply]:
        """Pick by the headers, and have the proxy pass the body on as it comes: its end may never come."""
        replies = self._pick_without_body(message)
        if self._request_mode is not BodyMode.BUFFERED or self._assignment is None:
            return replies
        self._request_mode = BodyMode.NONE
        mode = ModeOverride(self._response_mode, request_body=BodyMode.NONE)
        return [HeadersReply(Phase.REQUEST, to_endpoint(self._assignment, BodyMode.NONE, body=False), mode)]

    def _request_body(self, message: Body) -> list[Reply]:
        if self._state is not ExchangeState.BODY:
            return self._body_after_pick(message)
        size = len(self._body) + len(message.data)
        if size > self._limits.max_body_bytes:
            return self._refuse(too_large(size, self._limits.max_body_bytes))
        if self._request_mode is BodyMode.BUFFERED:
            # The proxy has the whole body. Trailers may be still to come; they tell nothing that is needed here.
            return self._pick_with_body(message.data, message.end_of_stream)
        self._body += message.data
        return self._pick_with_body(self._taken_body(), end_of_stream=True) if message.end_of_stream else []

    def _taken_body(self) -> bytes:
        data = bytes(self._body)
        self._body.clear()
        return data

    def _body_after_pick(self, message: Body) -> list[Reply]:
        """Bodies that the pick did not wait for, or that an answer came before, and an end of stream said twice (seen
        above 1 MB)."""
        if self._state is ExchangeState.START:
            raise self._unexpected("a request body")
        if self._body_ended:
            if message.data:
                raise ProtocolViolation("a request body came after its end")
            return []
        self._body_ended = message.end_of_stream
        if self._request_mode is BodyMode.FULL_DUPLEX_STREAMED:
            return list(duplex_pieces(Phase.REQUEST, message.data, message.end_of_stream) or _EMPTY_PIECE)
        return [BodyReply(Phase.REQUEST)]

    def _request_trailers(self, _message: Trailers) -> list[Reply]:
        if self._state is ExchangeState.BODY:
            if self._request_mode is BodyMode.BUFFERED:
                # A body would have come first, and there is no message left that could take the pick along.
                return self._refuse(Rejection(400, Reason.BODY_MISSING, "The request has no body."))
            return self._pick_with_body(self._taken_body(), end_of_stream=False, trailers=True)
        if self._state not in AFTER_PICK:
            raise self._unexpected("request trailers")
        return [TrailersReply(Phase.REQUEST)]

    def _pick_with_body(self, data: bytes, end_of_stream: bool, trailers: bool = False) -> list[Reply]:
        request = self._request
        assert request is not None
        self._body_ended = True
        # A request without a body is the server's to answer, whatever its path.
        read = read_request(request, data) if data else EMPTY_BODY
        if isinstance(read, Rejection):
            return self._refuse(read)
        pick = _Pick(wanted(request, read, len(data), self._limits.trusted_headers), data, end_of_stream, trailers)
        if self.queue is None or self.on_admitted is None:
            return self._pick(pick)
        place = self.queue.join(pick.wanted, self.on_admitted)
        if place is None:
            return self._pick(pick)
        if isinstance(place, Rejection):
            return self._refuse(place, pick.wanted)
        self._state, self._place, self._held = ExchangeState.HELD, place, pick
        return [ExtendTimeout(place.wait_s + EXTRA_MESSAGE_TIMEOUT_S)]

    def _pick(self, pick: _Pick) -> list[Reply]:
        assigned = self._assign(pick.wanted)
        if isinstance(assigned, Rejection):
            return self._answer(assigned)
        model, data = pick.wanted.body.model, pick.data
        renamed: bytes | None = None
        if assigned.served_model is not None and model is not None:
            self._asked_model = model
            renamed = rename(pick.wanted.body, data, assigned.served_model)
        renamed_bytes = len(renamed) if renamed is not None else None
        changes = to_endpoint(assigned, self._request_mode, body=True, renamed_bytes=renamed_bytes)
        if self._request_mode is BodyMode.BUFFERED:
            return [BodyReply(Phase.REQUEST, changes, renamed)]
        pieces = duplex_pieces(Phase.REQUEST, data if renamed is None else renamed, pick.end_of_stream)
        last = [TrailersReply(Phase.REQUEST)] if pick.trailers else []
        return [HeadersReply(Phase.REQUEST, changes), *pieces, *last]

    def _assign(self, wanted: Wanted) -> Assignment | Rejection:
        assigned = self._desk.assign(wanted)
        if not isinstance(assigned, Rejection):
            self._assignment = assigned
            self._state = ExchangeState.PICKED
        return assigned

    def _response_headers(self, message: ResponseHeaders) -> list[Reply]:
        if self._state not in BEFORE_ANSWER:
            raise self._unexpected("response headers")
        self._leave()
        self._state = ExchangeState.ANSWERING
        self._not_sampled = False
        request, assigned = self._request, self._assignment
        if request is None or assigned is None:
            # The proxy itself answers, before the body was complete or a pick made: too large, or too slow.
            return [HeadersReply(Phase.RESPONSE)]
        if message.served is not None:
            assigned.served_by(message.served)
        status = message.headers.get(":status", "")
        assigned.first_byte(int(status) if status.isdecimal() else None)
        kind = ResponseKind.of(message.headers.get("content-type", ""))
        served = assigned.served_model
        compressed = content_coding(message.headers.get("content-encoding", "")) is not None
        if self._asked_model is None or served is None or kind is None or compressed or message.end_of_stream:
            return [HeadersReply(Phase.RESPONSE, prediction_headers(assigned, self._predicts(request)))]
        self._restorer = ResponseModelRewriter(kind, served, self._asked_model)
        mode = None
        if self._response_mode is not BodyMode.FULL_DUPLEX_STREAMED:
            self._response_mode = BodyMode.STREAMED
            mode = ModeOverride(response_body=BodyMode.STREAMED)
        return [
            HeadersReply(
                Phase.RESPONSE,
                prediction_headers(assigned, self._predicts(request), remove_headers=("content-length",)),
                mode,
            )
        ]

    def _response_body(self, message: Body) -> list[Reply]:
        if self._state is not ExchangeState.ANSWERING:
            raise self._unexpected("a response body")
        data = message.data
        restorer = self._restorer
        if restorer is not None:
            data = restorer.feed(data, message.end_of_stream)
        if self._response_mode is BodyMode.FULL_DUPLEX_STREAMED:
            if not message.data and not message.end_of_stream:
                return [DuplexBodyReply(Phase.RESPONSE, b"", False)]
            return list(duplex_pieces(Phase.RESPONSE, data, message.end_of_stream))
        if restorer is None:
            return [BodyReply(Phase.RESPONSE)]
        restorer.unanswered.append(data)
        # The proxy keeps the pieces that are not answered, and passes them on as they were when the picker is gone.
        return [] if restorer.holding else _restored(restorer)

    def _response_trailers(self, _message: Trailers) -> list[Reply]:
        # Without headers before them where the proxy was told to keep those.
        if self._state not in (ExchangeState.PICKED, ExchangeState.ANSWERING):
            raise self._unexpected("response trailers")
        self._state = ExchangeState.ANSWERED
        held = self._restorer.feed(b"", True) if self._restorer is not None else b""
        if held and self._response_mode is BodyMode.FULL_DUPLEX_STREAMED:
            return [*duplex_pieces(Phase.RESPONSE, held, end_of_stream=False), TrailersReply(Phase.RESPONSE)]
        if self._restorer is None or not self._restorer.unanswered:
            return [TrailersReply(Phase.RESPONSE)]
        self._restorer.unanswered[-1] += held
        return [*_restored(self._restorer), TrailersReply(Phase.RESPONSE)]

    def _refuse(self, rejection: Rejection, asked: Wanted | None = None) -> list[Reply]:
        """Turn the request away before anybody has been asked for an endpoint."""
        if asked is None:
            trusted = self._limits.trusted_headers
            asked = wanted(self._request, EMPTY_BODY, 0, trusted) if self._request else Wanted(None, EMPTY_BODY, None)
        self._desk.turned_away(asked, rejection)
        return self._answer(rejection)

    def _answer(self, rejection: Rejection) -> list[Reply]:
        self._leave()
        self._state = ExchangeState.REFUSED
        self._body.clear()
        return [error_response(rejection)]


def _restored(restorer: ResponseModelRewriter) -> list[Reply]:
    """The answers to the pieces of the response that wait for one."""
    replies: list[Reply] = [BodyReply(Phase.RESPONSE, data=data) for data in restorer.unanswered]
    restorer.unanswered.clear()
    return replies
