"""The ext_proc exchange of one HTTP request, as a state machine: messages in, replies out, no I/O and no clock.

    headers ──► (body ... body) ──► forwarded ──► (response headers ──► (response body ... )) ──► closed
                            │   └─► rejected: an immediate response; no further reply
                            └─► queued, until an endpoint has capacity or the time limit passes

The proxy's request body mode decides which message carries the pick. BUFFERED: the request's headers are answered at
once, or the body never comes; the reply to the body carries the pick. FULL_DUPLEX_STREAMED: the headers are answered
only with the pick, or the request is routed before it; the body is then returned in pieces. A body that may end after
the response begins (an upgrade) is not waited for: the reply to the headers carries the pick. The end of the stream, by
the end of the response or because the client leaves, ends the in-flight request. Response headers come where the
picker asks for them in its reply to the request's headers, and from proxies that always send them.
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
    """The exchange of one HTTP request. `receive` every message, then `close` it in every case."""

    def __init__(
        self,
        director: Director,
        limits: Limits,
        fallback_mode: BodyMode = BodyMode.BUFFERED,
        queue: FlowControl | None = None,
    ) -> None:
        """`fallback_mode`: the request body mode of a proxy that does not send it (Envoy does since 1.34). With `queue`
        requests may be queued: set `on_admitted`, whose caller calls `resume`."""
        self._director = director
        self._request = RequestPhase(director, limits, fallback_mode, queue)
        self._response: ResponsePhase | None = None
        self._closed = False

    @property
    def queues(self) -> bool:
        """Whether requests may be queued."""
        return self._request.queue is not None

    def on_admitted(self, callback: OnAdmitted) -> None:
        """`callback` is called when a queued request has left the queue, and calls `resume`."""
        self._request.on_admitted = callback

    @property
    def deadline_s(self) -> float | None:
        """Seconds to wait for the next message before `expire` is called; None means no timeout."""
        request = self._request
        return request.body_timeout_s if request.state is RequestState.BODY else None

    @property
    def settled(self) -> bool:
        """Whether the proxy can do without the rest: the pick is sent, and the response need not pass through here."""
        request = self._request
        if request.state is not RequestState.FORWARDED:
            return request.state is RequestState.REJECTED
        mode = self._response.mode if self._response is not None else request.response_mode
        return request.asked_model is None and mode is not BodyMode.FULL_DUPLEX_STREAMED

    def receive(self, message: Incoming) -> list[Reply]:
        """The replies to `message`, in order. Raises ProtocolViolation."""
        request = self._request
        if request.state is RequestState.REJECTED or self._closed:
            # Pieces of the body that were sent before the immediate response arrived.
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
        """The replies for a queued request that has left the queue: scheduled now, or rejected with `rejection`."""
        return [] if self._closed else self._request.resume(rejection)

    def expire(self) -> list[Reply]:
        """The deadline has passed: reject the request."""
        limit_s = self._request.body_timeout_s
        message = f"The request body did not arrive within {limit_s:.0f} seconds."
        return self._request.reject(Rejection(RejectReason.BODY_TIMEOUT, message))

    def fail(self) -> list[Reply]:
        """The picker failed on this request: reject it if nothing has been answered yet."""
        if self._closed or self._request.state not in _UNANSWERED:
            return []
        return self._request.reject(Rejection(RejectReason.INTERNAL, "The endpoint picker failed on this request."))

    def close(self) -> None:
        """The stream has ended. Nothing is answered from here on. May be called again."""
        request = self._request
        request.leave_queue()
        # The callback holds this exchange: without it no reference cycle remains.
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
        self._response = ResponsePhase(request.response_mode, request.asked_model)
        return self._response.headers(message, request.in_flight, request.predicts)

    def _response_trailers(self) -> list[Reply]:
        request = self._request
        if self._response is None and request.state is RequestState.FORWARDED:
            # The proxy was not asked for the headers.
            self._response = ResponsePhase(request.response_mode, request.asked_model)
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
