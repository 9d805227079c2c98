"""One HTTP request's conversation with Envoy, as a state machine: messages in, messages out, no I/O and no clock.

    headers ──► (body ... body) ──► picked ──► (response headers ──► response body ... ) ──► closed
                                └─► refused: an immediate reply, and nothing more is expected

The proxy's body mode decides when the request's headers may be answered. BUFFERED: at once, or the body never comes;
the pick goes with the answer to the body. FULL_DUPLEX_STREAMED: only with the pick, or the request is routed before it;
the body then has to be handed back piece by piece. A stream that ends, by the response's end or by the client's
leaving, ends the request's count in the ledger.
"""

from dataclasses import dataclass
from enum import Enum

from picker.extproc.assignment import Assignment, Desk, Wanted
from picker.extproc.body import NO_BODY, ReadBody, content_coding, declared_bytes, must_name_model, read_body
from picker.extproc.json_spans import rename_request
from picker.extproc.messages import (
    NO_CHANGES,
    Body,
    BodyMode,
    BodyReply,
    Changes,
    DuplexBodyReply,
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
)
from picker.extproc.refusals import Reason, Rejection
from picker.extproc.restore import AnswerKind, NameRestorer

DESTINATION = "x-gateway-destination-endpoint"
CONTROL_HEADERS = (DESTINATION, "x-gateway-destination-endpoint-served", "x-gateway-destination-endpoint-subset")
"""The protocol's own headers. What a client sends under these names is dropped: it must not choose its target."""

DUPLEX_PIECE_BYTES = 62_000
"""Envoy takes no full-duplex message over 64 KiB; the rest of the message needs some of that."""

OBJECTIVE = "x-gateway-inference-objective"
"""Names the InferenceObjective of a request: how much it matters."""

FLOW = "x-gateway-inference-fairness-id"
"""Names whose request it is; where requests have to wait, flows take turns."""

PREDICT_TTFT = "x-inference-gateway-predict-ttft"
"""A client that sends this, whatever its value, is told in PREDICTED_TTFT how many milliseconds from the pick to the
first token were predicted. No prediction, no header: an endpoint's pace has to be learned first."""

PREDICTED_TTFT = "x-inference-gateway-predicted-ttft-ms"

BODY_TIMEOUT_S = 60.0
"""For a body to arrive once its headers have. A client that stalls longer is not going to finish."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may cost."""

    max_body_bytes: int = 16 << 20
    """A 128k-token prompt is about half a MiB of text; images in a chat take the rest."""


class _State(Enum):
    START = "the request's headers"
    BODY = "the request's body"
    PICKED = "the response"
    ANSWERING = "the response's body"
    ANSWERED = "the end"
    REFUSED = "nothing"


_AFTER_PICK = (_State.PICKED, _State.ANSWERING, _State.ANSWERED)


class Exchange:
    """See the module. Feed it every message, then `close` it, whatever happened."""

    def __init__(self, desk: Desk, limits: Limits, fallback_mode: BodyMode = BodyMode.BUFFERED) -> None:
        """`fallback_mode`: the request body mode of a proxy that does not tell (Envoy tells since 1.34)."""
        self._desk = desk
        self._limits = limits
        self._request_mode = fallback_mode
        self._response_mode = BodyMode.NONE
        self._state = _State.START
        self._request: RequestHeaders | None = None
        self._body = bytearray()
        self._body_ended = False
        self._asked_model: str | None = None
        self._assignment: Assignment | None = None
        self._restorer: NameRestorer | None = None

    @property
    def deadline_s(self) -> float | None:
        """How long to wait for the next message before `expire` must be called; None: as long as it takes."""
        return BODY_TIMEOUT_S if self._state is _State.BODY else None

    @property
    def settled(self) -> bool:
        """Whether the proxy could do without the rest: the pick is out and the answer need not pass through here."""
        return self._state is _State.REFUSED or (
            self._state in _AFTER_PICK
            and self._asked_model is None
            and self._response_mode is not BodyMode.FULL_DUPLEX_STREAMED
        )

    def receive(self, message: Incoming) -> list[Reply]:
        """The replies to `message`, in order. Raises ProtocolViolation."""
        if self._state is _State.REFUSED:
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

    def expire(self) -> list[Reply]:
        """The deadline has passed."""
        return self._refuse(
            Rejection(408, Reason.BODY_TIMEOUT, f"The request body did not arrive within {BODY_TIMEOUT_S:.0f} seconds.")
        )

    def fail(self) -> list[Reply]:
        """An error in the picker itself: answer for it if nothing has been answered yet."""
        if self._state in (_State.START, _State.BODY):
            return self._refuse(Rejection(500, Reason.INTERNAL, "The endpoint picker failed on this request."))
        return []

    def close(self) -> None:
        """The stream has ended. Nothing is answered from here on."""
        assignment, self._assignment = self._assignment, None
        self._state = _State.REFUSED
        if assignment is not None:
            assignment.end()

    def _expect(self, what: str, *states: _State) -> None:
        if self._state not in states:
            raise ProtocolViolation(f"{what} came when {self._state.value} was expected")

    def _request_headers(self, message: RequestHeaders) -> list[Reply]:
        self._expect("request headers", _State.START)
        self._request = message
        if message.modes is not None:
            self._request_mode = message.modes.request_body
            self._response_mode = message.modes.response_body
        length = declared_bytes(message.headers.get("content-length", ""))
        if length > self._limits.max_body_bytes:
            return self._refuse(self._too_large(length))
        coding = content_coding(message.headers.get("content-encoding", ""))
        if coding is not None and not message.end_of_stream and self._strict(message):
            # Model servers read none (vLLM takes it for broken JSON), and unpacking is work that clients could impose.
            return self._refuse(
                Rejection(
                    415, Reason.BODY_ENCODED, f"Request bodies must not be compressed, found content-encoding {coding}."
                )
            )
        if message.end_of_stream or self._request_mode not in (BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED):
            return self._pick_without_body(message)
        self._state = _State.BODY
        if self._request_mode is BodyMode.FULL_DUPLEX_STREAMED:
            return []
        return [HeadersReply(Phase.REQUEST, Changes(remove_headers=CONTROL_HEADERS))]

    def _pick_without_body(self, message: RequestHeaders) -> list[Reply]:
        """Requests without a body (GET /v1/models), and proxies that do not show theirs."""
        if message.end_of_stream and message.headers.get(":method") == "POST" and self._strict(message):
            return self._refuse(Rejection(400, Reason.BODY_MISSING, "The request has no body."))
        assigned = self._assign(message, NO_BODY, 0)
        if isinstance(assigned, Rejection):
            return self._answer(assigned)
        return [HeadersReply(Phase.REQUEST, self._destination(assigned))]

    def _request_body(self, message: Body) -> list[Reply]:
        if self._state in _AFTER_PICK:
            return self._body_after_pick(message)
        self._expect("a request body", _State.BODY)
        if len(self._body) + len(message.data) > self._limits.max_body_bytes:
            return self._refuse(self._too_large(len(self._body) + len(message.data)))
        self._body += message.data
        if message.end_of_stream:
            return self._pick_with_body(end_of_stream=True)
        if self._request_mode is BodyMode.BUFFERED:
            # The proxy has the whole body; trailers are still to come, and they tell nothing that is needed here.
            return self._pick_with_body(end_of_stream=False)
        return []

    def _body_after_pick(self, message: Body) -> list[Reply]:
        """Bodies that the pick did not wait for, or that an answer came before, and an end of stream said twice (seen
        above 1 MB)."""
        if self._body_ended:
            if message.data:
                raise ProtocolViolation("a request body came after its end")
            return []
        if self._request_mode is BodyMode.FULL_DUPLEX_STREAMED:
            return list(_pieces(Phase.REQUEST, message.data, message.end_of_stream))
        self._body_ended = message.end_of_stream
        return [BodyReply(Phase.REQUEST)]

    def _request_trailers(self, _message: Trailers) -> list[Reply]:
        if self._state is _State.BODY:
            if self._request_mode is BodyMode.BUFFERED:
                # A body would have come first, and there is no message left that could take the pick along.
                return self._refuse(Rejection(400, Reason.BODY_MISSING, "The request has no body."))
            return [*self._pick_with_body(end_of_stream=False), TrailersReply(Phase.REQUEST)]
        self._expect("request trailers", *_AFTER_PICK)
        return [TrailersReply(Phase.REQUEST)]

    def _pick_with_body(self, end_of_stream: bool) -> list[Reply]:
        request = self._request
        assert request is not None
        self._body_ended = True
        data = bytes(self._body)
        self._body.clear()
        read = read_body(data, self._strict(request))
        if isinstance(read, Rejection):
            return self._refuse(read)
        assigned = self._assign(request, read, len(data))
        if isinstance(assigned, Rejection):
            return self._answer(assigned)
        renamed: bytes | None = None
        if assigned.served_model is not None and read.model is not None:
            self._asked_model = read.model
            renamed = rename_request(data, read.model, assigned.served_model)
        changes = self._destination(assigned, len(renamed) if renamed is not None else None)
        if self._request_mode is BodyMode.BUFFERED:
            return [BodyReply(Phase.REQUEST, changes, renamed)]
        pieces = _pieces(Phase.REQUEST, data if renamed is None else renamed, end_of_stream)
        return [HeadersReply(Phase.REQUEST, changes), *pieces]

    def _strict(self, message: RequestHeaders) -> bool:
        headers = message.headers
        return headers.get(":method", "POST") == "POST" and must_name_model(
            headers.get(":path", ""), headers.get("content-type", "")
        )

    def _assign(self, message: RequestHeaders, body: ReadBody, body_bytes: int) -> Assignment | Rejection:
        header = message.headers.get
        wanted = Wanted(
            message.pool, body, message.subset, header(OBJECTIVE) or None, header(FLOW) or None,
            body_bytes, header(":path", ""), header("x-request-id"), header("traceparent"),
        )  # fmt: skip
        assigned = self._desk.assign(wanted)
        if not isinstance(assigned, Rejection):
            self._assignment = assigned
            self._state = _State.PICKED
        return assigned

    def _destination(self, assigned: Assignment, renamed_bytes: int | None = None) -> Changes:
        set_headers = [(DESTINATION, assigned.destination)]
        # After a buffered body the control headers are gone already, with the answer to the request's headers.
        buffered = self._body_ended and self._request_mode is BodyMode.BUFFERED
        remove: list[str] = [] if buffered else [*CONTROL_HEADERS[1:]]
        if renamed_bytes is not None:
            set_headers.append(("content-length", str(renamed_bytes)))
            # A compressed answer could not be searched for the name.
            remove.append("accept-encoding")
        duplex = self._request_mode is BodyMode.FULL_DUPLEX_STREAMED
        return Changes(tuple(set_headers), tuple(remove), assigned.destination, clear_route_cache=duplex)

    def _response_headers(self, message: ResponseHeaders) -> list[Reply]:
        self._expect("response headers", _State.BODY, _State.PICKED)
        self._state = _State.ANSWERING
        if self._assignment is None:
            # The proxy itself answers, before the body was complete: too large, or too slow.
            return [HeadersReply(Phase.RESPONSE)]
        if message.served is not None:
            self._assignment.served_by(message.served)
        status = message.headers.get(":status", "")
        self._assignment.first_byte(int(status) if status.isdecimal() else None)
        kind = AnswerKind.of(message.headers.get("content-type", ""))
        served = self._assignment.served_model
        compressed = content_coding(message.headers.get("content-encoding", "")) is not None
        if self._asked_model is None or served is None or kind is None or compressed or message.end_of_stream:
            return [HeadersReply(Phase.RESPONSE, self._foretold())]
        self._restorer = NameRestorer(kind, served, self._asked_model)
        mode = None
        if self._response_mode is not BodyMode.FULL_DUPLEX_STREAMED:
            self._response_mode = BodyMode.STREAMED
            mode = ModeOverride(response_body=BodyMode.STREAMED)
        return [HeadersReply(Phase.RESPONSE, self._foretold(remove_headers=("content-length",)), mode)]

    def _foretold(self, remove_headers: tuple[str, ...] = ()) -> Changes:
        """What becomes of an answer's headers: for clients that ask, the prediction is told."""
        assert self._request is not None
        assert self._assignment is not None
        predicted_s = self._assignment.predicted_ttft_s if PREDICT_TTFT in self._request.headers else None
        if predicted_s is None:
            return Changes(remove_headers=remove_headers) if remove_headers else NO_CHANGES
        return Changes(((PREDICTED_TTFT, f"{1000 * predicted_s:.0f}"),), remove_headers)

    def _response_body(self, message: Body) -> list[Reply]:
        self._expect("a response body", _State.ANSWERING)
        data = message.data
        if self._restorer is not None:
            data = self._restorer.feed(data, message.end_of_stream)
        if self._response_mode is BodyMode.FULL_DUPLEX_STREAMED:
            return list(_pieces(Phase.RESPONSE, data, message.end_of_stream))
        return [BodyReply(Phase.RESPONSE, data=data if self._restorer is not None else None)]

    def _response_trailers(self, _message: Trailers) -> list[Reply]:
        # Without headers before them where the proxy was told to keep those.
        self._expect("response trailers", _State.PICKED, _State.ANSWERING)
        self._state = _State.ANSWERED
        held = self._restorer.feed(b"", True) if self._restorer is not None else b""
        if held and self._response_mode is BodyMode.FULL_DUPLEX_STREAMED:
            return [*_pieces(Phase.RESPONSE, held, end_of_stream=False), TrailersReply(Phase.RESPONSE)]
        return [TrailersReply(Phase.RESPONSE)]

    def _too_large(self, found_bytes: int) -> Rejection:
        allowed = self._limits.max_body_bytes
        return Rejection(
            413, Reason.BODY_TOO_LARGE, f"The request body is {found_bytes} bytes or more, {allowed} are allowed."
        )

    def _refuse(self, rejection: Rejection) -> list[Reply]:
        """Turn the request away before anybody has been asked for an endpoint."""
        request = self._request
        pool, headers = (request.pool, request.headers) if request is not None else (None, {})
        self._desk.turned_away(pool, headers.get("x-request-id"), rejection)
        return self._answer(rejection)

    def _answer(self, rejection: Rejection) -> list[Reply]:
        self._state = _State.REFUSED
        self._body.clear()
        return [rejection.reply()]


def _pieces(phase: Phase, data: bytes, end_of_stream: bool) -> list[DuplexBodyReply]:
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
