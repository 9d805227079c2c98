"""What the decision is about and what it answers."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from picker.endpoints.endpoint import Endpoint
from picker.resources.inference import Criticality


class InferenceRequest(msgspec.Struct, frozen=True, gc=False):
    """A request as the scheduler sees it."""

    model: str | None
    """The servers' name for the model, a LoRA adapter's name included; None for requests that name none."""
    criticality: Criticality
    prompt_tokens: int
    """Estimated from the bytes of the prompt."""
    output_tokens: int
    """Expected of each sequence; 0 for requests that generate nothing."""
    blocks: tuple[int, ...] = ()
    """Chained hashes of the prompt's blocks, first block first (see `endpoints.prefixes`)."""
    conversation: int | None = None
    """A hash of how the conversation began, where the prompt is of one: equal in all its turns."""
    continues: bool = False
    """Whether the prompt holds an answer already: it is not the conversation's first turn."""
    sequences: int = 1
    """Answers that the server generates at once, each of which it counts as a request."""
    subset: frozenset[str] | None = None
    """Addresses that the proxy allows; None allows all, an empty set none."""


def allowed(endpoints: Sequence[Endpoint], subset: frozenset[str] | None) -> Sequence[Endpoint]:
    """Those of `endpoints` that the proxy allows; see `InferenceRequest.subset`."""
    return endpoints if subset is None else [endpoint for endpoint in endpoints if endpoint.address in subset]


class Refused(StrEnum):
    """Why no endpoint was named; also the value of the reason header."""

    NO_READY_ENDPOINTS = "no-ready-endpoints"
    SUBSET_EMPTY = "subset-empty"
    SATURATED = "saturated"
    QUEUE_FULL = "queue-full"
    QUEUE_TIMEOUT = "queue-timeout"


class Refusal(msgspec.Struct, frozen=True):
    """No endpoint shall serve this request now."""

    reason: Refused
    detail: str
    """A sentence for the client."""


class Ranking(msgspec.Struct, frozen=True, gc=False):
    """The endpoints that may serve a request, best first; the order in which a proxy tries them. Never empty."""

    endpoints: tuple[Endpoint, ...]
    cached_tokens: int = 0
    """Prompt tokens that the first endpoint is thought to hold in its prefix cache."""
    considered: Sequence[Endpoint] = ()
    """Among whom was chosen, for who asks why; perhaps a pool's own sequence, which changes."""
    costs: Sequence[float] = ()
    """What the request would have cost on each of those."""
    cached: Sequence[int] = ()
    """Prompt tokens that each of those is thought to hold."""
