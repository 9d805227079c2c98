"""A request that was read and asks for an endpoint."""

import msgspec

from picker.requestcontrol.request_body import ParsedBody


class RequestInfo(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a client's request for logs and traces. A new fact is one field here, set in `extproc.headers`.

    Every text is bounded in length by the one who sets it."""

    path: str = ""
    """Without the query, which may hold keys of clients."""
    request_id: str | None = None
    """`x-request-id`."""
    trace: str | None = None
    """W3C's `traceparent`: the proxy's own span where the proxy sends it, else the client's."""
    body_bytes: int = 0
    """Of the whole body, as the client sent it."""


NO_INFO = RequestInfo()


class PickRequest(msgspec.Struct, frozen=True, gc=False):
    """A request that was read and asks for an endpoint. It holds the whole body, so it must not outlive the pick."""

    pool: str | None
    """The InferencePool as the gateway names it, `GROUP/NAMESPACE/NAME`; None where the gateway names none."""
    body: ParsedBody
    subset: frozenset[str] | None
    """Addresses that the proxy allows; None allows all."""
    objective: str | None = None
    """Name of an InferenceObjective in the pool's namespace, as the client gave it; it may not exist."""
    flow: str | None = None
    """The fairness id that the client gave; requests without one share a flow."""
    info: RequestInfo = NO_INFO
