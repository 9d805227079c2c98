"""An endpoint and what is known of it. The objects live as long as the endpoint and are changed in place: metrics by
the scraper, loads by the ledger. A decision reads them between two awaits, so it sees one consistent state without a
copy."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import force_setattr

from picker.endpoints.load.prefill_tracker import PrefillCounters, PrefillTracker
from picker.endpoints.load.speed import CompletionRate, SpeedEstimate
from picker.endpoints.metrics.credibility import Credibility

NEARLY_FULL = 0.9
"""KV cache usage from which a server soon queues or preempts."""

FAILURE_WEIGHT = 0.1
"""Of one answer in an endpoint's share of failures: the last ten or so count."""

FAILURE_HALF_LIFE_S = 3.0
"""Of that share. A server that failed ten times is asked again after some seconds; one that goes on failing gets about
one request in this time."""

LEAST_FAILING = 0.01
"""A smaller share counts as none: a tenth more than the cost of the best would still keep all of a light load away."""


class ServerMetrics(msgspec.Struct, frozen=True, gc=False):
    """What one scrape of a model server said, and what decisions make of it: worked out once a scrape rather than for
    every request."""

    queue_depth: int
    """Requests waiting there."""
    running: int
    kv_cache_usage: float
    """0 to 1."""
    active_loras: frozenset[str] = frozenset()
    waiting_loras: frozenset[str] = frozenset()
    max_loras: int = 0
    """0: the server runs without LoRA, or did not tell."""
    block_size_tokens: int | None = None
    kv_blocks: int | None = None
    scraped_at_s: float = 0.0
    """On the monotonic clock of the process."""
    progress: PrefillCounters | None = None
    """None where the server does not tell it."""
    generation_tokens: float | None = None
    """Generated since its start (`generation_tokens_total`); None where the server does not tell."""
    stalled: bool = False
    """Whether the load was taken off: see `credibility`."""
    in_flight_at_scrape: int = 0
    """Requests that this picker had in flight there at the moment of the scrape: what the server counts beyond them
    came past this picker."""
    cache_tokens: int = 0
    """Derived: what the KV cache holds; 0 where the server did not tell."""
    foreign_requests: int = 0
    """Derived: requests there that came past this picker (another replica of it, the plain port). The scrape counted
    this picker's of its time too, so only what it saw beyond them is meant."""
    queues: bool = False
    """Derived: whether the server waits for room, or soon will: then the time to a first token tells of that, and not
    of the work ahead."""

    def __post_init__(self) -> None:
        if self.kv_blocks and self.block_size_tokens:
            force_setattr(self, "cache_tokens", self.kv_blocks * self.block_size_tokens)
        force_setattr(self, "foreign_requests", max(0, self.running + self.queue_depth - self.in_flight_at_scrape))
        force_setattr(self, "queues", self.queue_depth > 0 or self.kv_cache_usage > NEARLY_FULL)


@dataclass(slots=True)
class InFlight:
    """What this picker has sent to an endpoint and not seen the end of."""

    requests: int = 0
    """As model servers count them: each sequence of a request (`n`, lists of prompts) is one."""
    prefill_tokens: int = 0
    """Prompt tokens of those requests, less what the prefix cache is thought to hold, and what is computed."""
    decode_tokens: int = 0
    """Tokens that those requests are expected to generate."""
    models: dict[str, int] = field(default_factory=dict[str, int])
    """Those requests by the model that they ask for, adapters' names included; none that is 0."""


@dataclass(slots=True, eq=False)
class Endpoint:
    """One `ip:port` of a pool. Compared by identity: an endpoint that left and came back is a new one."""

    address: str
    """`ip:port`, an IPv6 address in brackets: the form of the picker protocol."""
    server: str
    """Name of the model server."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    metrics: ServerMetrics | None = None
    """The newest scrape, however old; None when none has succeeded."""
    in_flight: InFlight = field(default_factory=InFlight)
    prefills: PrefillTracker = field(default_factory=PrefillTracker)
    foreign_prefill_tokens: int = 0
    """To be computed there for requests that came past this picker, as far as the newest scrape shows."""
    pace: SpeedEstimate = field(default_factory=SpeedEstimate)
    credibility: Credibility = field(default_factory=Credibility)
    drain: CompletionRate = field(default_factory=CompletionRate)
    failing: float = 0.0
    """Share of its newest answers that were errors of the server's (5xx) or never came, 0 to 1, as of
    `failing_at_s`."""
    failing_at_s: float | None = None
    """None after a failure, until the next call of `fade_failures` says what time it is."""
    unreachable_since_s: float | None = None
    """Since when connections to it are refused (monotonic); None when it answers, however badly. Such an endpoint is
    ranked after the others."""

    def answer_counted(self, *, failed: bool) -> None:
        """Count one answer in `failing`."""
        self.failing += FAILURE_WEIGHT * (failed - self.failing)
        if failed:
            self.failing_at_s = None

    def fade_failures(self, now_s: float) -> None:
        """Let `failing` age up to `now_s`. Called at each scrape and by strategies, any number of them."""
        if not self.failing:
            return
        since_s = self.failing_at_s
        if since_s is None:
            self.failing_at_s = now_s
        elif now_s > since_s:
            self.failing_at_s = now_s
            self.failing *= 0.5 ** ((now_s - since_s) / FAILURE_HALF_LIFE_S)
            if self.failing < LEAST_FAILING:
                self.failing = 0.0
