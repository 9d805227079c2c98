"""What an exchange asks of whoever assigns endpoints, and what it tells them afterwards."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from picker.requestcontrol.rejection import Rejection
from picker.requestcontrol.request_body import ParsedBody


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """A request that has been read, asking for an endpoint."""

    pool: str | None
    body: ParsedBody
    subset: frozenset[str] | None
    objective: str | None = None
    """Name of an InferenceObjective in the pool's namespace, as the client gave it; it may not exist."""
    flow: str | None = None
    """Whose request it is, as the client gave it; requests without a flow share one."""
    body_bytes: int = 0
    """Of the whole body, as the client sent it."""
    path: str = ""
    request_id: str | None = None
    """For logs."""
    trace: str | None = None
    """For traces: W3C's `traceparent`, that of the proxy's own span where it tells it."""


class Assignment(Protocol):
    """A request that has its endpoint and is counted there."""

    @property
    def destination(self) -> str:
        """`ip:port[,ip:port...]`, best first."""
        ...

    @property
    def served_model(self) -> str | None:
        """The name that the servers know the model by, where it differs from the one asked for."""
        ...

    @property
    def predicted_ttft_s(self) -> float | None:
        """From the pick to the first token, as far as the endpoint's pace is known."""
        ...

    def served_by(self, address: str) -> None:
        """The proxy says that another endpoint than the first answered."""
        ...

    def first_byte(self, status: int | None) -> None:
        """The answer has begun, with this status where it is known."""
        ...

    def end(self, *, not_sampled: bool = False) -> None:
        """The request has left its endpoint. `not_sampled`: Envoy did not send the response headers. Idempotent."""
        ...


class Desk(Protocol):
    """Who assigns endpoints."""

    def wants_response_headers(self, pool: str | None) -> bool:
        """Whether the headers of the answer to a request that falls to `pool` are wanted; asked once for each, before
        its body is there."""
        ...

    def assign(self, wanted: Wanted) -> "Assignment | Rejection":
        """Decide, and count the request in the same step."""
        ...

    def turned_away(self, wanted: Wanted, rejection: Rejection) -> None:
        """The exchange has answered a request itself that nobody was asked to assign: too large, say, or no JSON. Its
        body may not have been read."""
        ...


OnAdmitted = Callable[[Rejection | None], None]
"""Hears that a request's waiting is over: None, it is to be assigned now; else what it is answered instead."""


class Place(Protocol):
    """Of a request that waits for an endpoint."""

    @property
    def wait_s(self) -> float:
        """At most."""
        ...

    def leave(self) -> None:
        """The client has gone. May be called again, and after its turn."""
        ...


class Queue(Protocol):
    """Where requests wait while there is no room for them."""

    def join(self, wanted: Wanted, on_admitted: OnAdmitted) -> Place | Rejection | None:
        """None: assign it now. A place: `on_admitted` is called once, later, unless it leaves before."""
        ...
