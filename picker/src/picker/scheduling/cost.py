"""DEFAULT and PREFIX_CACHE: the predicted cost of a request on each endpoint, in prompt tokens.

docs/scheduling.md lists the measured alternatives to the terms and the weights.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from picker.endpoints.endpoint import Endpoint
from picker.scheduling.request import InferenceRequest
from picker.scheduling.terms.affinity import CrossPickerAffinity
from picker.scheduling.terms.kv_cache import KvDemand, pressure
from picker.scheduling.terms.lora import LoraAffinity
from picker.scheduling.terms.prefill import (
    FAILING,
    SEQUENCE_TOKENS,
    STEP_TOKENS,
    fleet_seconds_per_token,
    requests_at,
    requests_there,
)

SLOWED_TOKENS = 56.0
"""Prompt tokens that a request costs each running sequence, because they share the engine's steps."""

INTERRUPTED_SHARE = 0.1
"""Share of a prompt that it costs each running sequence which it interrupts. A client that already receives tokens
notices a pause less than a client that waits for its first token."""

ROOM_SHARE = 6.0
"""Cost of KV cache room, as a share of the tokens that a request will hold, at a cache that the running requests fill.
Proportionally less at a cache that they fill partly. The term evens the caches out. Cached tokens need no new room.
Measured: with 8, a mixed fleet has 1 % less goodput."""

QUEUED_SHARE = 10.0
"""Share of a prompt that it costs for each request in the server's queue. The prompt is computed after all of them,
and needs room that they wait for. Cached tokens need little of it."""

NEXT_STEP_TOKENS = 2048.0
"""A queue of at most this many tokens, the prompt included, costs nothing if the KV cache has room for it. It is
computed in the next step (vLLM's `max_num_batched_tokens` on cards such as the A10)."""

QUEUE_HALF_AGE_S = 1.0
"""A queue depth of this age counts half. Where scrapes are rare, the queue may be gone long since. All requests between
two scrapes would then go to the one server that had none."""

SLOWNESS_POWER = 2.5
"""Exponent of slowness. A slow server delays the first token and all later ones, and its requests stay longer.
Measured: squared, a server of half the speed still gets too much. Cubed, one of twice the speed does."""

TERMS_MAX_AGE_S = 0.02
"""How long `EndpointTerms` are reused. Scrapes are ten times as far apart, and one response changes the terms little.
Reuse saves work at thousands of requests per second. At low rates each decision computes them again."""


class EndpointTerms(NamedTuple):
    """The parts of an endpoint's cost that do not depend on the request."""

    factor: float
    """Pressure times slowness to the power of `SLOWNESS_POWER`."""
    shared_tokens: float
    """Tokens that a request costs each running sequence whatever its prompt: by the shared steps, and by the room of
    its answer."""
    prompt_share: float
    """Share of the uncached prompt that it costs each running sequence: by the interruption, and by its room."""
    queue: int
    """Requests that wait on the server."""
    next_step_tokens: float
    """Tokens of the queue and the prompt that the next step computes."""
    queued_share: float
    """Share of a prompt that it costs for each request in the queue. Decreases with the age of the scrape."""


class PredictedCost:
    """Cost = (work ahead of the first token + cost to the waiting and running requests + adapter)
    x pressure x slowness^2.5 x failures.

    The sum is in prompt tokens. Cached tokens of the prompt cost nothing, so a cached prefix attracts by as much as it
    saves.
    """

    miss_penalty = 1.0
    """Factor of the prompt tokens that are not cached."""

    def __init__(self) -> None:
        self._affinity = CrossPickerAffinity()
        self._lora = LoraAffinity()
        self._terms: dict[Endpoint, EndpointTerms] = {}
        self._terms_expire_s = -inf
        self._fleet_s_per_token: float | None = None
        self._kv_demand = KvDemand()

    def required_candidates(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        preferred_endpoint = self._affinity.preferred_endpoint(request, endpoints)
        return () if preferred_endpoint is None else (preferred_endpoint,)

    def costs(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        cached_tokens: Sequence[int],
        required_candidates: Sequence[Endpoint] | None,
        now_s: float,
    ) -> Sequence[float]:
        running = requests_at(endpoints)
        tokens = request.prompt_tokens
        uncached: Sequence[float]
        if required_candidates:
            uncached = self._affinity.uncached_tokens(request, endpoints, cached_tokens, required_candidates[0])
        else:
            uncached = [tokens - cached if cached < tokens else 0 for cached in cached_tokens]
        if self.miss_penalty != 1.0:
            uncached = [self.miss_penalty * count for count in uncached]
        return self.costs_of(request, endpoints, uncached, running, now_s)

    def costs_of(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        uncached_tokens: Sequence[float],
        running: Sequence[int],
        now_s: float,
    ) -> Sequence[float]:
        """`costs`, given the prompt tokens that each endpoint has to compute and the number of requests there."""
        if now_s >= self._terms_expire_s:
            self._terms.clear()
            self._terms_expire_s = now_s + TERMS_MAX_AGE_S
            self._fleet_s_per_token = fleet_seconds_per_token(endpoints, now_s)
            self._kv_demand.observe(endpoints, now_s)
            self._affinity.observe(endpoints, running)
            self._lora.observe(endpoints, now_s)
            for endpoint in endpoints:
                endpoint.fade_failures(now_s)
        terms_of = self._terms.get
        costs: list[float] = []
        # `terms.prefill.work_ahead` inlined: this loop takes most of the time of a decision.
        for endpoint, uncached, count in zip(endpoints, uncached_tokens, running, strict=True):
            ahead = (
                STEP_TOKENS
                + SEQUENCE_TOKENS * count
                + endpoint.in_flight.prefill_tokens
                + endpoint.foreign_prefill_tokens
                + uncached
            )
            factor, shared, share, queue, next_step, queued_share = terms_of(endpoint) or self._compute_terms(
                endpoint, now_s
            )
            others = count * (shared + share * uncached)
            if queue and (queued := (queue + 1) * uncached) > next_step:
                others += queued_share * (queued - next_step)
            costs.append((ahead + others) * factor * (1.0 + FAILING * endpoint.failing))
        adapters = self._lora.tokens(request.model, endpoints)
        if adapters is None:
            return costs
        return [
            cost + adapter * self._terms[endpoint].factor
            for cost, adapter, endpoint in zip(costs, adapters, endpoints, strict=True)
        ]

    def _compute_terms(self, endpoint: Endpoint, now_s: float) -> EndpointTerms:
        metrics, missing = endpoint.metrics, endpoint.credibility.missing
        if metrics is not None and missing:
            metrics = self._kv_demand.with_missing(metrics, missing, requests_there(endpoint))
        factor, room, queue, next_step, queued_share = 1.0, 0.0, 0, NEXT_STEP_TOKENS, 0.0
        if metrics is not None:
            usage = self._kv_demand.usage(metrics, requests_there(endpoint))
            factor = pressure(usage, metrics.queue_depth, metrics.running)
            if metrics.cache_tokens:
                room = ROOM_SHARE * self._kv_demand.tokens / metrics.cache_tokens
                next_step = min(next_step, (1.0 - metrics.kv_cache_usage) * metrics.cache_tokens)
            else:
                room = ROOM_SHARE * metrics.kv_cache_usage / max(1, metrics.running)
            queue = metrics.queue_depth
            queued_share = QUEUED_SHARE / (1.0 + max(0.0, now_s - metrics.scraped_at_s) / QUEUE_HALF_AGE_S)
        if self._fleet_s_per_token is not None:
            slowness = endpoint.pace.slowdown_vs(self._fleet_s_per_token, now_s)
            if missing and slowness < 1.0:
                # A server that reports too little load may report too short times as well.
                slowness = 1.0
            factor *= slowness**SLOWNESS_POWER
        terms = self._terms[endpoint] = EndpointTerms(
            factor,
            SLOWED_TOKENS + room * self._kv_demand.answer_tokens,
            INTERRUPTED_SHARE + room,
            queue,
            next_step,
            queued_share,
        )
        return terms


class PrefixCacheCost(PredictedCost):
    """PREFIX_CACHE: DEFAULT's cost with a higher price for tokens that are not cached."""

    miss_penalty = 1.2
    """Tokens that are computed again also evict other cached tokens."""
