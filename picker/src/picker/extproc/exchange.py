"""The ext_proc exchange of one HTTP request, as a state machine: messages in, replies out, no I/O and no clock.

    headers ──► (body ... body) ──► forwarded ──► (response headers ──► (response body ... )) ──► closed
                            │   └─► rejected: an immediate response; no further reply
                            └─► queued, until an endpoint has capacity or the time limit passes

The proxy's request body mode decides which message carries the pick:

- BUFFERED: the reply to the body carries the pick. The headers are answered at once, because the proxy sends the body
  only after that.
- FULL_DUPLEX_STREAMED: the reply to the headers carries the pick. It is sent when the whole body is read, because the
  proxy routes the request at that reply. The body is then returned in pieces.
- A body that may end after the response begins (an upgrade): the reply to the headers carries the pick, at once.

The end of the stream ends the in-flight request, also when the client disconnects. The proxy sends response headers
where the picker requests them in its reply to the request's headers. Some proxies always send them.
"""

from picker.extproc.messages import (
    Body,
    BodyMode,
    Incoming,
    Phase,
    ProtocolViolation,
    Reply,
    RequestHeaders,
    ResponseHeaders,
    Trailers,
)
from picker.extproc.request_phase import Limits, RequestPhase, RequestState
from picker.extproc.response_phase import ResponsePhase
from picker.rejection import Rejection, RejectReason
from picker.requestcontrol.director import Director
from picker.requestcontrol.flowcontrol.controller import FlowControl
from picker.requestcontrol.flowcontrol.queue import OnAdmitted

_UNANSWERED = (RequestState.HEADERS, RequestState.BODY, RequestState.QUEUED)
_BEFORE_RESPONSE = (RequestState.BODY, RequestState.QUEUED, RequestState.FORWARDED)


class Exchange:
    """The exchange of one HTTP request. Call `receive` with every message, and `close` at the end in every case."""

    def __init__(
        self,
        director: Director,
        limits: Limits,
        fallback_mode: BodyMode = BodyMode.BUFFERED,
        queue: FlowControl | None = None,
    ) -> None:
        """`fallback_mode`: the request body mode of a proxy that does not send its modes (Envoy does since 1.34).
        `queue`: None disables queueing. Requests are queued only after `on_admitted` was called."""
        self._director = director
        self._request = RequestPhase(director, limits, fallback_mode, queue)
        self._response: ResponsePhase | None = None
        self._closed = False

    @property
    def queues(self) -> bool:
        """Whether requests may be queued."""
        return self._request.queue is not None

    def on_admitted(self, callback: OnAdmitted) -> None:
        """Sets the function that is called when a queued request has left the queue. It has to call `resume`."""
        self._request.on_admitted = callback

    @property
    def deadline_s(self) -> float | None:
        """Seconds to wait for the next message before `expire` is called; None means no timeout."""
        request = self._request
        return request.body_timeout_s if request.state is RequestState.BODY else None

    @property
    def settled(self) -> bool:
        """Whether the proxy no longer needs the exchange: the pick is sent, and the response is not changed here."""
        request = self._request
        if request.state is not RequestState.FORWARDED:
            return request.state is RequestState.REJECTED
        mode = self._response.mode if self._response is not None else request.response_mode
        return request.requested_model is None and mode is not BodyMode.FULL_DUPLEX_STREAMED

    def receive(self, message: Incoming) -> list[Reply]:
        """Returns the replies to `message`, in order. Raises ProtocolViolation."""
        request = self._request
        if request.state is RequestState.REJECTED or self._closed:
            # The proxy may have sent pieces of the body before it received the immediate response.
            return []
        match message:
            case RequestHeaders():
                return request.headers(message)
            case Body(phase=Phase.REQUEST):
                return request.body(message)
            case Trailers(phase=Phase.REQUEST):
                return request.trailers()
            case ResponseHeaders():
                return self._response_headers(message)
            case Body():
                return self._open_response("a response body").body(message)
            case Trailers():
                return self._response_trailers()

    def resume(self, rejection: Rejection | None) -> list[Reply]:
        """Schedules a request that has left the queue, or rejects it with `rejection`. Returns the replies."""
        return [] if self._closed else self._request.resume(rejection)

    def expire(self) -> list[Reply]:
        """Rejects the request, because `deadline_s` has passed. Returns the replies."""
        limit_s = self._request.body_timeout_s
        message = f"The request body did not arrive within {limit_s:.0f} seconds."
        return self._request.reject(Rejection(RejectReason.BODY_TIMEOUT, message))

    def fail(self) -> list[Reply]:
        """Rejects a request that the picker failed on, if it has neither a pick nor a rejection. Returns the
        replies."""
        if self._closed or self._request.state not in _UNANSWERED:
            return []
        return self._request.reject(Rejection(RejectReason.INTERNAL, "The endpoint picker failed on this request."))

    def close(self) -> None:
        """Ends the exchange with its stream. `receive` returns no replies after it. Further calls have no effect."""
        request = self._request
        request.leave_queue()
        # The callback refers to this exchange. Without it there is no reference cycle.
        request.on_admitted = None
        in_flight, request.in_flight, self._closed = request.in_flight, None, True
        if in_flight is not None:
            self._director.ended(in_flight, not_sampled=request.not_sampled)

    def _response_headers(self, message: ResponseHeaders) -> list[Reply]:
        request = self._request
        if self._response is not None or request.state not in _BEFORE_RESPONSE:
            raise self._unexpected("response headers")
        request.response_began()
        if request.in_flight is not None:
            status = message.headers.get(":status", "")
            self._director.response_started(
                request.in_flight, message.served, int(status) if status.isdecimal() else None
            )
        self._response = ResponsePhase(request.response_mode, request.requested_model)
        return self._response.headers(message, request.in_flight, request.predicts)

    def _response_trailers(self) -> list[Reply]:
        request = self._request
        if self._response is None and request.state is RequestState.FORWARDED:
            # The response headers were not requested, so the trailers come first.
            self._response = ResponsePhase(request.response_mode, request.requested_model)
        return self._open_response("response trailers").trailers()

    def _open_response(self, found: str) -> ResponsePhase:
        if self._response is None or self._response.ended:
            raise self._unexpected(found)
        return self._response

    def _unexpected(self, found: str) -> ProtocolViolation:
        response = self._response
        expected = self._request.state.value
        if response is not None:
            expected = "the end" if response.ended else "the response's body"
        return ProtocolViolation(f"{found} came when {expected} was expected")


__all__ = ["Exchange", "Limits"]
