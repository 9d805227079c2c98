"""Error responses that the picker sends itself, in OpenAI's error format."""

import msgspec

from picker.extproc.messages import ImmediateReply
from picker.protocol import DROPPED_REASON
from picker.rejection import ERROR_TYPES, Rejection

REASON_HEADER = "x-inference-gateway-reason"

RETRY_AFTER_S = 1
"""Sent with 429 and 503. Judgement: a replica's queue moves within a second, and clients back off from there."""


def error_response(rejection: Rejection) -> ImmediateReply:
    """Returns the response to a rejected request: status, reason headers and JSON body."""
    body = msgspec.json.encode(
        {
            "error": {
                "message": rejection.message,
                "type": ERROR_TYPES[rejection.status],
                "param": rejection.param,
                "code": rejection.reason,
            }
        }
    )
    headers = [("content-type", "application/json"), (REASON_HEADER, rejection.reason)]
    if (dropped := rejection.dropped_reason) is not None:
        headers.append((DROPPED_REASON, dropped))
    if rejection.status == 415:
        # RFC 9110, 15.5.16: the content codings that the request could have used.
        headers.append(("accept-encoding", "identity"))
    if rejection.status in (429, 503):
        headers.append(("retry-after", str(RETRY_AFTER_S)))
    return ImmediateReply(rejection.status, tuple(headers), body)
