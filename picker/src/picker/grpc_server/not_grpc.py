"""Answers requests that are not gRPC with a plain-text hint that this is a gRPC port."""

from picker.grpc_server.call import Call, CallContext
from picker.grpc_server.http2.headers import encode_headers
from picker.grpc_server.status import Status

_HINT = b"This port speaks gRPC: POST, with content-type application/grpc.\n"


class NotGrpcCall(Call):
    """A request that is not gRPC. It is answered in plain HTTP once its body has ended."""

    __slots__ = ("_http_status",)

    def __init__(self, context: CallContext, stream_id: int, http_status: int) -> None:
        super().__init__(context, stream_id)
        self._http_status = http_status

    def feed(self, data: bytes) -> None:
        """Ignores the body."""

    def received(self, message: bytes) -> None:
        """Never called: `feed` reads no messages."""

    def half_closed(self) -> None:
        block = encode_headers([(":status", str(self._http_status)), ("content-type", "text/plain")])
        connection = self.context.connection
        self.answered = True
        connection.respond(self.stream_id, block)
        connection.send(self.stream_id, _HINT)
        self.end(Status.UNIMPLEMENTED)

    def drain(self) -> None:
        """Does nothing: the call ends with its request."""

    def closed(self) -> None:
        """Does nothing: the call holds no resources."""
