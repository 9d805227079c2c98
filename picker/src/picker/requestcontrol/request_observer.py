"""Observers of requests: metrics, access log, traces, and the list of recent decisions."""

import msgspec

from picker.rejection import Rejection
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import RequestInfo
from picker.requestcontrol.served_pool import ServedPool


class RejectedRequest(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A request without an endpoint. Times are in seconds on the director's timer."""

    rejection: Rejection
    """Its message is cut to `director.MAX_MESSAGE_CHARACTERS`."""
    info: RequestInfo
    pool: str
    """NAMESPACE/NAME; empty for a request of no known pool."""
    strategy: str
    priority: int | None
    """None where the request was rejected before its body was read."""
    requested_model: str | None
    prompt_tokens: int
    begun_s: float
    decided_s: float


class RequestObserver:
    """The director calls it at the steps of every request. The methods here do nothing, and observers override those
    that they need. They must not raise, and must not change the request."""

    def scheduled(self, request: InFlightRequest, pool: ServedPool) -> None:
        """Called when an endpoint was assigned, and the request is counted there."""

    def rejected(self, request: RejectedRequest, pool: ServedPool | None) -> None:
        """Called when the picker rejects the request. `pool`: None if it is not known."""

    def moved(self, request: InFlightRequest) -> None:
        """The proxy fell back: another endpoint serves the request."""

    def ended(self, request: InFlightRequest) -> None:
        """Called once for each scheduled request, at its end."""
