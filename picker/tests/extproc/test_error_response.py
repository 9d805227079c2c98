"""The picker's own responses: status and reasons of each rejection."""

import pytest
from picker.extproc.error_response import error_response
from picker.rejection import Rejection, RejectReason

DROPPED = {
    "pool-unknown": (503, "rejected-no-endpoints"),
    "no-ready-endpoints": (503, "rejected-no-endpoints"),
    "subset-empty": (503, "rejected-no-endpoints"),
    "saturated": (429, "rejected-saturated"),
    "slo-unattainable": (429, "rejected-saturated"),
    "queue-full": (429, "rejected-saturated"),
    "queue-timeout": (429, "rejected-ttl-expired"),
    "internal": (500, "rejected-internal"),
}
"""Status and reason of llm-d-router."""


@pytest.mark.parametrize("reason", RejectReason)
def test_a_rejection_has_upstreams_status_and_reason(reason: RejectReason) -> None:
    """An error of the client has no reason in upstream's words."""
    reply = error_response(Rejection(reason, "No."))
    headers = dict(reply.headers)
    assert headers["x-inference-gateway-reason"] == reason
    assert headers.get("x-llm-d-request-dropped-reason") == DROPPED.get(reason, (0, None))[1]
    if reason in DROPPED:
        assert reply.status == DROPPED[reason][0]
    else:
        assert 400 <= reply.status < 429
    assert ("retry-after" in headers) is (reply.status in (429, 503))
