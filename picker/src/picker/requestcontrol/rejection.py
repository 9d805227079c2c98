"""Answers that the picker gives in a model server's stead, in the shape of OpenAI's errors."""

from dataclasses import dataclass
from enum import StrEnum

from picker.resources.inference import Criticality


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


@dataclass(frozen=True, slots=True)
class Rejection:
    """A request that no endpoint will serve, and what its client is told."""

    status: int
    reason: str
    message: str
    param: str | None = None
    criticality: Criticality | None = None
    """Of a request that flow control has turned away."""


def too_large(found_bytes: int, allowed_bytes: int) -> Rejection:
    """Of a body that is at least `found_bytes` long."""
    return Rejection(
        413, Reason.BODY_TOO_LARGE, f"The request body is {found_bytes} bytes or more, {allowed_bytes} are allowed."
    )
