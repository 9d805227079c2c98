"""gRPC status codes, and the header blocks that carry them (gRPC over HTTP/2, "Responses")."""

from enum import IntEnum
from functools import lru_cache
from urllib.parse import quote

from picker.grpc_server.http2.headers import encode_headers

MAX_DETAIL_CHARACTERS = 500
"""Limit on `grpc-message`. Judgement: enough for a sentence. Percent-encoded, it must fit the client's limit on
headers."""

_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if code != ord("%"))


class Status(IntEnum):
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class RpcError(Exception):
    """Ends the call with `status`; `detail` is the text of `grpc-message`."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


_HEADERS = ((":status", "200"), ("content-type", "application/grpc"))

RESPONSE_HEADERS = encode_headers(_HEADERS)
"""The header block that begins every response with messages."""


@lru_cache(maxsize=64)
def trailers(status: Status, detail: str = "", *, alone: bool = False) -> bytes:
    """Returns the header block that ends a response. `alone`: a Trailers-Only response, which holds the response
    headers too."""
    fields = [*(_HEADERS if alone else ()), ("grpc-status", str(int(status)))]
    if detail:
        fields.append(("grpc-message", quote(detail[:MAX_DETAIL_CHARACTERS], safe=_PRINTABLE)))
    if status is Status.UNIMPLEMENTED:
        fields.append(("grpc-accept-encoding", "identity"))
    return encode_headers(fields)


OK_TRAILERS = trailers(Status.OK)
"""The trailers of a call that succeeds."""
