"""The course of one request, as it is told to those who count, log, trace and explain."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.requestcontrol.director import Assigned
from picker.requestcontrol.rejection import Rejection
from picker.resources.inference import Criticality


class Seen(msgspec.Struct, gc=False):
    """What a decision saw of the endpoints that it considered, in their order."""

    endpoints: Sequence[Endpoint]
    metrics: Sequence[ServerMetrics | None]
    """The newest scrapes then."""
    requests: Sequence[int]
    """In flight there; that which was decided on is among them, on the endpoint that was picked."""
    cached: Sequence[int] = ()
    """Prompt tokens that are thought to be in the endpoints' prefix caches; empty where nobody asked."""
    costs: Sequence[float] = ()
    """Empty where nobody asked."""

    @classmethod
    def of(cls, endpoints: Sequence[Endpoint], cached: Sequence[int] = (), costs: Sequence[float] = ()) -> "Seen":
        """As the endpoints are now."""
        metrics = [endpoint.metrics for endpoint in endpoints]
        return cls(tuple(endpoints), metrics, [endpoint.in_flight.requests for endpoint in endpoints], cached, costs)


class Ending(Protocol):
    """Who hears of the end of a course first; see `request_counts.RequestCounters`."""

    pool: str
    strategy: str

    def now(self) -> float:
        """By the clock of the courses, in seconds."""
        ...

    def ended(self, course: "Course") -> None: ...


class Course(msgspec.Struct, eq=False, gc=False):
    """A request that got an endpoint, from the pick to its end: the `Assignment` that an exchange is given, around the
    desk's own. Seconds are on a clock of their own, not the wall's.

    Courses outlive their requests, so they keep neither the prompt nor its blocks, and as few objects as they can."""

    assigned: Assigned | None
    """None once the request has ended."""
    destination: str
    served_model: str | None
    tally: Ending
    model: str | None
    """As the client named it."""
    criticality: Criticality
    prompt_tokens: int
    """Estimated."""
    cached_tokens: int
    """Of the prompt, thought to be in the prefix cache of the endpoint that was picked."""
    output_tokens: int
    """At most, or expected where the client set no limit."""
    body_bytes: int
    path: str
    request_id: str | None
    trace: str | None
    picked: Endpoint
    begun_s: float
    decided_s: float
    seen: Seen | None = None
    """None where decisions are not kept."""
    other: Endpoint | None = None
    """The endpoint that served the request in place of the picked one."""
    first_byte_s: float | None = None
    status: int | None = None
    ended_s: float | None = None

    @property
    def endpoint(self) -> Endpoint:
        """That which serves the request, as far as is known."""
        return self.other or self.picked

    @property
    def predicted_ttft_s(self) -> float | None:
        return self.assigned.predicted_ttft_s if self.assigned is not None else None

    def served_by(self, address: str) -> None:
        if self.assigned is not None:
            self.assigned.served_by(address)
            endpoint = self.assigned.dispatched.ticket.endpoint
            self.other = endpoint if endpoint is not self.picked else None

    def first_byte(self, status: int | None) -> None:
        if self.assigned is not None and self.first_byte_s is None:
            self.assigned.first_byte(status)
            self.status = status
            self.first_byte_s = self.tally.now()

    def end(self, *, not_sampled: bool = False) -> None:
        assigned, self.assigned = self.assigned, None
        if assigned is not None:
            assigned.end(not_sampled=not_sampled)
            self.tally.ended(self)


class TurnedAway(msgspec.Struct, eq=False, gc=False):
    """A request that no endpoint was picked for."""

    rejection: Rejection
    pool: str
    """NAMESPACE/NAME; empty where the request fell to no pool that is known."""
    strategy: str
    criticality: str
    """Empty where nobody asked."""
    model: str | None
    prompt_tokens: int
    body_bytes: int
    path: str
    request_id: str | None
    trace: str | None
    begun_s: float
    decided_s: float
    seen: Seen | None = None


class RequestSink(Protocol):
    """Who tells of requests when they are over: the access log, the traces."""

    def ended(self, course: Course) -> None: ...

    def turned_away(self, request: TurnedAway) -> None: ...
