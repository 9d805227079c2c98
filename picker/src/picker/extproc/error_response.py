"""Error responses that the picker sends itself, in OpenAI's error format."""

import msgspec

from picker.extproc.messages import ImmediateReply
from picker.rejection import Rejection

REASON_HEADER = "x-inference-gateway-reason"

_TYPES = {
    400: "invalid_request_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}

RETRY_AFTER_S = 1
"""Sent with 429 and 503. Judgement: a replica's queue moves within a second, and clients back off from there."""


def error_response(rejection: Rejection) -> ImmediateReply:
    """Returns the response to a rejected request: status, reason header and JSON body."""
    body = msgspec.json.encode(
        {
            "error": {
                "message": rejection.message,
                "type": _TYPES[rejection.status],
                "param": rejection.param,
                "code": rejection.reason,
            }
        }
    )
    headers = [("content-type", "application/json"), (REASON_HEADER, rejection.reason)]
    if rejection.status == 415:
        # RFC 9110, 15.5.16: the content codings that the request could have used.
        headers.append(("accept-encoding", "identity"))
    if rejection.status in (429, 503):
        headers.append(("retry-after", str(RETRY_AFTER_S)))
    return ImmediateReply(rejection.status, tuple(headers), body)
