"""Requests that are not gRPC: a word for people and clients who have come to the wrong port."""

from picker.grpc_server.call import Call, CallContext
from picker.grpc_server.http2.headers import encode_headers
from picker.grpc_server.status import Status

_WORD = b"This port speaks gRPC: POST, with content-type application/grpc.\n"


class NotGrpcCall(Call):
    """Answered in plain HTTP once it has ended."""

    __slots__ = ("_http_status",)

    def __init__(self, context: CallContext, stream_id: int, http_status: int) -> None:
        super().__init__(context, stream_id)
        self._http_status = http_status

    def feed(self, data: bytes) -> None:
        """Its body means nothing here."""

    def received(self, message: bytes) -> None:
        """Never called: `feed` finds no messages."""

    def half_closed(self) -> None:
        head = encode_headers([(":status", str(self._http_status)), ("content-type", "text/plain")])
        connection = self.context.connection
        self.answered = True
        connection.respond(self.stream_id, head)
        connection.send(self.stream_id, _WORD)
        self.end(Status.UNIMPLEMENTED)

    def drain(self) -> None:
        """It ends by itself."""

    def closed(self) -> None:
        """Nothing was counted."""
