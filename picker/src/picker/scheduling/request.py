"""A request as the scheduler sees it, and the ranking of endpoints for it."""

from collections.abc import Sequence

import msgspec

from picker.endpoints.endpoint import Endpoint
from picker.scheduling.latency_slo import LatencySlo


class InferenceRequest(msgspec.Struct, frozen=True, gc=False):
    """A request as the scheduler sees it."""

    model: str | None
    """The servers' name for the model, a LoRA adapter's name included; None for requests that name none."""
    priority: int
    """Below 0 the request is rejected first when there is no capacity for all (see `Criticality`)."""
    prompt_tokens: int
    """Estimated from the bytes of the prompt."""
    output_tokens: int
    """Expected of each sequence; 0 for requests that generate nothing."""
    blocks: tuple[int, ...] = ()
    """Chained hashes of the prompt's blocks, first block first (see `endpoints.prefix_cache.index`)."""
    sequences: int = 1
    """Answers that the server generates at once, each of which it counts as a request."""
    subset: frozenset[str] | None = None
    """Addresses that the proxy allows; None allows all, an empty set none."""
    slo: LatencySlo | None = None
    """The latencies that the client requests."""


def allowed(endpoints: Sequence[Endpoint], subset: frozenset[str] | None) -> Sequence[Endpoint]:
    """Those of `endpoints` that the proxy allows; see `InferenceRequest.subset`."""
    return endpoints if subset is None else [endpoint for endpoint in endpoints if endpoint.address in subset]


class Ranking(msgspec.Struct, frozen=True, gc=False):
    """The endpoints that may serve a request, best first; the order in which a proxy tries them. Never empty."""

    endpoints: tuple[Endpoint, ...]
    cached_tokens: int = 0
    """Prompt tokens expected in the prefix cache of the first endpoint."""
    considered: Sequence[Endpoint] = ()
    """The endpoints that were compared. This may be the pool's own sequence, which changes."""
    costs: Sequence[float] = ()
    """Of the request on each of `considered`."""
    cached: Sequence[int] = ()
    """Prompt tokens expected in the prefix cache of each of `considered`."""
