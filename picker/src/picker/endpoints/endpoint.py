"""An endpoint and its state.

The objects exist as long as the endpoint, and are changed in place: metrics by the scraper, loads by the in-flight
tracker. A decision reads them between two awaits, so it sees one consistent state without a copy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import force_setattr, replace

from picker.endpoints.load.prefill_tracker import PrefillCounters, PrefillTracker
from picker.endpoints.load.speed import CompletionRate, SpeedEstimate
from picker.endpoints.load.step_time import StepTimeEstimate
from picker.endpoints.metrics.credibility import Credibility

NEARLY_FULL = 0.9
"""KV cache usage from which a server soon queues or preempts. Judgement."""

FAILURE_WEIGHT = 0.1
"""Weight of one response in an endpoint's error rate: about the last ten count."""

FAILURE_HALF_LIFE_S = 3.0
"""Half-life of that rate. A server that has failed ten times gets requests again after some seconds. A server that
still fails gets about one request in this time."""

MAX_UNSCRAPED_BURST = 16
"""Requests that an endpoint may be sent before its newest scrape is outrun; as many as it had then, if that is more.
Judgement: an idle endpoint starts the requests of a step at once, and a burst that it can serve passes within a few
scrapes."""

MIN_ERROR_RATE = 0.01
"""A lower rate counts as 0. A cost that is a tenth higher than the best would still keep all of a light load away."""


class ServerMetrics(msgspec.Struct, frozen=True, gc=False):
    """The content of one scrape of a model server, and values derived from it once per scrape."""

    queue_depth: int
    """Requests that wait on the server."""
    running: int
    kv_cache_usage: float
    """0 to 1."""
    active_loras: frozenset[str] = frozenset()
    waiting_loras: frozenset[str] = frozenset()
    max_loras: int = 0
    """0: the server runs without LoRA, or does not report it."""
    block_size_tokens: int | None = None
    kv_blocks: int | None = None
    scraped_at_s: float = 0.0
    """On the monotonic clock of the process."""
    progress: PrefillCounters | None = None
    """None if the server does not report the counters."""
    generation_tokens: float | None = None
    """Generated since the server's start (`generation_tokens_total`). None if the server does not report it."""
    steps: float | None = None
    """Engine steps since its start (`iteration_tokens_total_count`); None if it does not report them."""
    stalled: bool = False
    """Whether `credibility` has replaced the reported load by 0."""
    in_flight_at_scrape: int = 0
    """Requests in flight there of this picker and its peers at the time of the scrape. Later reports of peers correct
    it."""
    cache_tokens: int = 0
    """Derived: capacity of the KV cache. 0 if the server does not report it."""
    foreign_requests: int = 0
    """Derived: requests there that neither this picker nor a peer sent (a replica that is no peer, or the plain port).
    The scrape counts their own requests too, so these are the requests beyond `in_flight_at_scrape`."""
    queues: bool = False
    """Derived: whether requests wait for room, or soon will. The time to a first token then shows the queue, and not
    the work ahead."""

    def __post_init__(self) -> None:
        if self.kv_blocks and self.block_size_tokens:
            force_setattr(self, "cache_tokens", self.kv_blocks * self.block_size_tokens)
        force_setattr(self, "foreign_requests", max(0, self.running + self.queue_depth - self.in_flight_at_scrape))
        force_setattr(self, "queues", self.queue_depth > 0 or self.kv_cache_usage > NEARLY_FULL)


@dataclass(slots=True)
class InFlight:
    """What was sent to an endpoint and has not ended."""

    requests: int = 0
    """As model servers count them: each sequence of a request (`n`, lists of prompts) is one."""
    prefill_tokens: int = 0
    """Prompt tokens of those requests, less the tokens that are computed or estimated to be in the prefix cache."""
    decode_tokens: int = 0
    """Tokens that those requests are expected to generate."""
    models: dict[str, int] = field(default_factory=dict[str, int])
    """Those requests by their model, names of adapters included. Holds no zero counts."""
    was_idle: bool = True
    """Whether no request was there at some time since the newest scrape."""


@dataclass(slots=True, eq=False)
class Endpoint:
    """One `ip:port` of a pool. Compared by identity: an endpoint that left and joined again is a new one."""

    address: str
    """`ip:port`, an IPv6 address in brackets: the form of the endpoint picker protocol."""
    server: str
    """Name of the model server."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    metrics: ServerMetrics | None = None
    """The newest scrape, however old. None if none has succeeded."""
    in_flight: InFlight = field(default_factory=InFlight)
    """Of this picker, and of its peers as they report it."""
    peers_in_flight: InFlight = field(default_factory=InFlight)
    """The part of `in_flight` that peers report. Its `models` stay empty."""
    prefills: PrefillTracker = field(default_factory=PrefillTracker)
    foreign_prefill_tokens: int = 0
    """Pending prefill of requests that this picker did not send, as far as the newest scrape shows it."""
    speed: SpeedEstimate = field(default_factory=SpeedEstimate)
    step_time: StepTimeEstimate = field(default_factory=StepTimeEstimate)
    credibility: Credibility = field(default_factory=Credibility)
    drain: CompletionRate = field(default_factory=CompletionRate)
    scrape_interval_s: float | None = None
    """Present time between two scrapes. None before the first."""
    page_s: float | None = None
    """The server's time for a page of metrics, estimated (`metrics.schedule`). None before the first."""
    failing: float = 0.0
    """Error rate of its newest responses as of `failing_at_s`, 0 to 1: 5xx, and responses that never arrived."""
    failing_at_s: float | None = None
    """None after a failure, until the next call of `fade_failures` sets the time."""
    unreachable_since_s: float | None = None
    """Since when it refuses connections (monotonic). None while it accepts them, whatever it answers. Such an endpoint
    is ranked after the others."""

    @property
    def outran_scrape(self) -> bool:
        """Whether it may have a queue that its newest scrape does not show: many requests were sent since."""
        if self.metrics is None:
            return False
        at_scrape = self.metrics.in_flight_at_scrape
        return self.in_flight.requests - at_scrape >= max(MAX_UNSCRAPED_BURST, at_scrape)

    def answer_counted(self, *, failed: bool) -> None:
        """Count one response in `failing`."""
        self.failing += FAILURE_WEIGHT * (failed - self.failing)
        if failed:
            self.failing_at_s = None

    def correct_scrape(self, requests: int, prefill_tokens: int) -> None:
        """Correct what the newest scrape counted as foreign. Peers report late: at that scrape they had `requests` and
        `prefill_tokens` more there than were counted. A negative number of requests means fewer."""
        metrics = self.metrics
        if metrics is None or not (requests or prefill_tokens):
            return
        metrics = replace(metrics, in_flight_at_scrape=max(0, metrics.in_flight_at_scrape + requests))
        self.metrics = metrics
        tokens = self.foreign_prefill_tokens - prefill_tokens
        self.foreign_prefill_tokens = max(0, tokens) if metrics.foreign_requests else 0

    def fade_failures(self, now_s: float) -> None:
        """Decay `failing` to `now_s`. Called at each scrape and by strategies; may be called at any rate."""
        if not self.failing:
            return
        since_s = self.failing_at_s
        if since_s is None:
            self.failing_at_s = now_s
        elif now_s > since_s:
            self.failing_at_s = now_s
            self.failing *= 0.5 ** ((now_s - since_s) / FAILURE_HALF_LIFE_S)
            if self.failing < MIN_ERROR_RATE:
                self.failing = 0.0
