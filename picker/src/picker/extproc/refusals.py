"""Answers that the picker gives in a model server's stead, in the shape of OpenAI's errors."""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from picker.extproc.messages import ImmediateReply
from picker.resources.inference import Criticality

REASON_HEADER = "x-inference-gateway-reason"


class Reason(StrEnum):
    """Why; the `code` of the error and the value of the reason header. Scheduling adds `scheduling.request.Refused`."""

    BODY_TOO_LARGE = "body-too-large"
    BODY_NOT_JSON = "body-not-json"
    BODY_NOT_FORM = "body-not-form"
    BODY_MISSING = "body-missing"
    BODY_ENCODED = "body-encoded"
    BODY_TIMEOUT = "body-timeout"
    MODEL_MISSING = "model-missing"
    MODEL_TOO_LONG = "model-too-long"
    MODEL_WRONG_TYPE = "model-wrong-type"
    MODEL_UNKNOWN = "model-unknown"
    POOL_UNKNOWN = "pool-unknown"
    INTERNAL = "internal"


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
"""Said with 429 and 503: a replica's queue moves within a second, and clients back off from there by themselves."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A request that no endpoint will serve, and what its client is told."""

    status: int
    reason: str
    message: str
    param: str | None = None
    criticality: Criticality | None = None
    """Of a request that flow control has turned away."""

    def reply(self) -> ImmediateReply:
        body = msgspec.json.encode(
            {
                "error": {
                    "message": self.message,
                    "type": _TYPES[self.status],
                    "param": self.param,
                    "code": self.reason,
                }
            }
        )
        headers = [("content-type", "application/json"), (REASON_HEADER, self.reason)]
        if self.status == 415:
            # What would be taken instead (RFC 9110, 15.5.16).
            headers.append(("accept-encoding", "identity"))
        if self.status in (429, 503):
            headers.append(("retry-after", str(RETRY_AFTER_S)))
        return ImmediateReply(self.status, tuple(headers), body)


def too_large(found_bytes: int, allowed_bytes: int) -> Rejection:
    """Of a body that is at least `found_bytes` long."""
    return Rejection(
        413, Reason.BODY_TOO_LARGE, f"The request body is {found_bytes} bytes or more, {allowed_bytes} are allowed."
    )
