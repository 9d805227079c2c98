"""The response half of an exchange: restores the client's model name, and passes on the rest unchanged."""

from picker.extproc.headers import prediction_headers
from picker.extproc.messages import (
    Body,
    BodyMode,
    BodyReply,
    DuplexBodyReply,
    HeadersReply,
    ModeOverride,
    Phase,
    Reply,
    ResponseHeaders,
    TrailersReply,
    duplex_pieces,
)
from picker.extproc.response_model import ResponseKind, ResponseModelRewriter
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.request_body import content_coding


class ResponsePhase:
    """The response half of an exchange. Each method returns the replies to send, in order."""

    def __init__(self, mode: BodyMode, requested_model: str | None) -> None:
        """`mode`: the response body mode. `requested_model`: the client's name for the model, if it was replaced in the
        request; else None."""
        self.mode = mode
        self.ended = False
        """Whether the trailers were received."""
        self._requested_model = requested_model
        self._rewriter: ResponseModelRewriter | None = None

    def headers(self, message: ResponseHeaders, in_flight: InFlightRequest | None, predicts: bool) -> list[Reply]:
        """Handles the response headers. `in_flight`: None if the proxy itself answers. `predicts`: whether the client
        requested a prediction."""
        if in_flight is None:
            return [HeadersReply(Phase.RESPONSE)]
        kind = ResponseKind.of(message.headers.get("content-type", ""))
        served, requested = in_flight.served_model, self._requested_model
        compressed = content_coding(message.headers.get("content-encoding", "")) is not None
        if requested is None or served is None or kind is None or compressed or message.end_of_stream:
            return [HeadersReply(Phase.RESPONSE, prediction_headers(in_flight, predicts))]
        self._rewriter = ResponseModelRewriter(kind, served, requested)
        override = None
        if self.mode is not BodyMode.FULL_DUPLEX_STREAMED:
            self.mode = BodyMode.STREAMED
            override = ModeOverride(response_body=BodyMode.STREAMED)
        changes = prediction_headers(in_flight, predicts, remove_headers=("content-length",))
        return [HeadersReply(Phase.RESPONSE, changes, override)]

    def body(self, message: Body) -> list[Reply]:
        """Handles a piece of the response body."""
        data, rewriter = message.data, self._rewriter
        if rewriter is not None:
            data = rewriter.feed(data, message.end_of_stream)
        if self.mode is BodyMode.FULL_DUPLEX_STREAMED:
            if not message.data and not message.end_of_stream:
                return [DuplexBodyReply(Phase.RESPONSE, b"", False)]
            return list(duplex_pieces(Phase.RESPONSE, data, message.end_of_stream))
        if rewriter is None:
            return [BodyReply(Phase.RESPONSE)]
        rewriter.unanswered.append(data)
        # The proxy keeps the pieces that have no reply, and forwards them unchanged if the picker fails.
        return [] if rewriter.holding else _restored(rewriter)

    def trailers(self) -> list[Reply]:
        """Handles the response's trailers. The headers may be missing."""
        self.ended = True
        rewriter = self._rewriter
        rest = rewriter.feed(b"", True) if rewriter is not None else b""
        if rest and self.mode is BodyMode.FULL_DUPLEX_STREAMED:
            return [*duplex_pieces(Phase.RESPONSE, rest, end_of_stream=False), TrailersReply(Phase.RESPONSE)]
        if rewriter is None or not rewriter.unanswered:
            return [TrailersReply(Phase.RESPONSE)]
        rewriter.unanswered[-1] += rest
        return [*_restored(rewriter), TrailersReply(Phase.RESPONSE)]


def _restored(rewriter: ResponseModelRewriter) -> list[Reply]:
    """Returns the replies to all pieces that have none yet."""
    replies: list[Reply] = [BodyReply(Phase.RESPONSE, data=data) for data in rewriter.unanswered]
    rewriter.unanswered.clear()
    return replies
