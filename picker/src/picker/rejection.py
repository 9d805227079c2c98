"""Rejections: why a request gets no endpoint, and the status and message of the response."""

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class RejectReason(StrEnum):
    """Why the picker rejects a request. It is the `code` of the error, the reason header, and a label of metrics."""

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
    NO_READY_ENDPOINTS = "no-ready-endpoints"
    SUBSET_EMPTY = "subset-empty"
    SATURATED = "saturated"
    SLO_UNATTAINABLE = "slo-unattainable"
    QUEUE_FULL = "queue-full"
    QUEUE_TIMEOUT = "queue-timeout"
    INTERNAL = "internal"


SCHEDULING_REASONS = frozenset(
    {
        RejectReason.NO_READY_ENDPOINTS,
        RejectReason.SUBSET_EMPTY,
        RejectReason.SATURATED,
        RejectReason.SLO_UNATTAINABLE,
        RejectReason.QUEUE_FULL,
        RejectReason.QUEUE_TIMEOUT,
    }
)
"""Reasons of the scheduler and of flow control, which depend on the endpoints. The others are checked before."""

_STATUS: Mapping[str, int] = {
    RejectReason.BODY_TOO_LARGE: 413,
    RejectReason.BODY_ENCODED: 415,
    RejectReason.BODY_TIMEOUT: 408,
    RejectReason.MODEL_UNKNOWN: 404,
    # The endpoint picker protocol (GAIE, proposal 004): 503 where no endpoint is ready, 429 where a request is shed.
    # llm-d-router counts a time limit in the queue as shed: the endpoints are there, and others use them.
    RejectReason.POOL_UNKNOWN: 503,
    RejectReason.NO_READY_ENDPOINTS: 503,
    RejectReason.SUBSET_EMPTY: 503,
    RejectReason.SATURATED: 429,
    RejectReason.SLO_UNATTAINABLE: 429,
    RejectReason.QUEUE_FULL: 429,
    RejectReason.QUEUE_TIMEOUT: 429,
    RejectReason.INTERNAL: 500,
}
"""HTTP status by reason; 400 for the others, which are errors of the client."""

_DROPPED_REASON: Mapping[str, str] = {
    RejectReason.POOL_UNKNOWN: "rejected-no-endpoints",
    RejectReason.NO_READY_ENDPOINTS: "rejected-no-endpoints",
    RejectReason.SUBSET_EMPTY: "rejected-no-endpoints",
    RejectReason.SATURATED: "rejected-saturated",
    RejectReason.SLO_UNATTAINABLE: "rejected-saturated",
    RejectReason.QUEUE_FULL: "rejected-saturated",
    RejectReason.QUEUE_TIMEOUT: "rejected-ttl-expired",
    RejectReason.INTERNAL: "rejected-internal",
}
"""llm-d-router's words by reason (pkg/common/error/error.go there). It has none for errors of the client. A picker that
stops schedules what it has queued, and a client that left gets no response, so its other words are never sent."""


ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
"""The `type` of an error by its status, of the picker's responses and of Envoy's own on routes to pools."""


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """Why a request is rejected, for its client."""

    reason: RejectReason
    message: str
    """A sentence for the client."""
    param: str | None = None
    """The field of the body that is wrong, as in OpenAI's errors."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _STATUS.get(self.reason, 400)

    @property
    def dropped_reason(self) -> str | None:
        """The value of `protocol.DROPPED_REASON`. None for an error of the client."""
        return _DROPPED_REASON.get(self.reason)


def too_large(found_bytes: int, allowed_bytes: int) -> Rejection:
    """Rejects a body of at least `found_bytes`."""
    message = f"The request body is {found_bytes} bytes or more, {allowed_bytes} are allowed."
    return Rejection(RejectReason.BODY_TOO_LARGE, message)
