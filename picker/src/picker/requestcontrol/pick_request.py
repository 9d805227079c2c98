"""A parsed request that needs an endpoint."""

import msgspec

from picker.requestcontrol.request_body import ParsedBody
from picker.scheduling.latency_slo import LatencySlo


class RequestInfo(msgspec.Struct, frozen=True, gc=False):
    """Facts about a client's request for logs and traces. A new one is a field here, which `extproc.headers` sets.

    `extproc.headers` limits the length of every text."""

    path: str = ""
    """Without the query, which may hold keys of clients."""
    request_id: str | None = None
    """`x-request-id`."""
    trace: str | None = None
    """W3C's `traceparent`: the proxy's own span if the proxy sends it, else the client's."""
    body_bytes: int = 0
    """Length of the whole body, as the client sent it."""


NO_INFO = RequestInfo()


class PickRequest(msgspec.Struct, frozen=True, gc=False):
    """A parsed request that needs an endpoint. It refers to the whole body, so it must not be kept after the pick."""

    pool: str | None
    """The InferencePool as the gateway names it, `GROUP/NAMESPACE/NAME`; None where the gateway names none."""
    body: ParsedBody
    subset: frozenset[str] | None
    """Addresses that the proxy allows; None allows all."""
    objective: str | None = None
    """Name of an InferenceObjective in the pool's namespace, as the client gave it; it may not exist."""
    flow: str | None = None
    """The fairness id that the client gave. Requests with None share a flow."""
    info: RequestInfo = NO_INFO
    model_rewrite: str | None = None
    """The servers' name for the model, from the proxy. It replaces the pool's own targets of the model."""
    slo: LatencySlo | None = None
