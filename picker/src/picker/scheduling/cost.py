"""DEFAULT and PREFIX_CACHE: the predicted cost of a request on each endpoint, in seconds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

from picker.endpoints.endpoint import Endpoint
from picker.scheduling.request import InferenceRequest
from picker.scheduling.terms.kv_cache import KvDemand, pressure
from picker.scheduling.terms.lora import LoraAffinity
from picker.scheduling.terms.prefill import (
    FIRST_TOKEN_STEPS,
    MAX_NUM_BATCHED_TOKENS,
    fleet_slowness,
    requests_at,
    requests_there,
)
from picker.scheduling.terms.step_time import PoolStepTime


@dataclass(frozen=True, slots=True)
class CostWeights:
    """The weights of the cost. All are without a unit; the times that they weigh are learned from the servers.

    "Measured" refers to the simulator's scenarios on A10 and L20 (docs/results.md, docs/scheduling.md)."""

    steps: float = 80.0
    """Steps after the first token whose time counts: that of the step itself, and half that of each sequence that runs
    there, which on the mean has half of its tokens left. Measured: with 40 a server of half the speed gets too many
    requests; with a whole sequence's time a cached prefix attracts too little."""
    interruption: float = 0.1
    """Share of its prefill by which the request delays each running sequence. Measured. Less than the whole: the delay
    of a running sequence counts less than that of one that has no token yet."""
    kv_room: float = 6.0
    """Cost of the KV cache blocks of the request, for each running sequence, where those there will fill the cache: a
    multiple of the prefill of as many tokens. In proportion below that. Measured: 8 and 16 are worse."""
    queue: float = 10.0
    """Cost of a prefill for each request that waits on the server, as a multiple of it. Measured: 5 is worse."""
    error_rate: float = 10.0
    """Cost of a server whose every response is an error, as a multiple. Judgement: it ends requests at once and looks
    idle."""
    miss_penalty: float = 1.0
    """Factor of the prompt tokens that are not cached."""


DEFAULT = CostWeights()
PREFIX_CACHE = replace(DEFAULT, miss_penalty=1.2)
"""Tokens that are computed again also evict other cached tokens. Measured: the two differ by little."""

QUEUE_HALF_AGE_S = 1.0
"""A queue counts half when its scrape is this old. With rare scrapes the queue may have ended, and every request
meanwhile would avoid the endpoint."""

TERMS_MAX_AGE_S = 0.02
"""How long an endpoint's terms are cached. Scrapes are ten times as far apart, and one request changes little."""

UNKNOWN_SEQUENCE_TOKENS = 1500.0
"""Tokens that a running sequence holds, as long as no server reports its cache. Judgement: the tutorial's prompts."""


class EndpointTerms(NamedTuple):
    """The parts of an endpoint's cost that do not depend on the request. Times are in seconds at the pool's speed."""

    slowness: float
    """Relative to the fleet."""
    pressure: float
    """Factor of all but `steps_s`."""
    steps_s: float
    """Of later steps, without the sequences that run there."""
    first_step_s: float
    """Ahead of any first token there."""
    per_token_s: float
    """Of an uncached prompt token."""
    shared_s: float
    """For each request there, whatever the prompt: by the shared steps, and by the room of the answer."""
    prefill_share: float
    """Delay of each request there, as a share of the prefill: by the interruption, and by its room."""
    queue: int
    """Requests that wait on the server."""
    next_step_tokens: float
    """Tokens of the queue and the prompt that the next step computes."""
    queued_share: float
    """Cost of a prefill for each request in the queue, as a multiple. Decreases with the age of the scrape."""


class PredictedCost:
    """An endpoint's cost is the time that the request would take there for its first tokens, plus the delay that it
    causes to the others there, times how unhealthy the endpoint is.

        cost = slowness x (steps + health x (wait + prefill + running x delay + queue delay + adapter))

    Times are those of the pool's own step model (`terms.step_time`). Cached tokens of the prompt cost nothing, so a
    cached prefix attracts by as much as it saves."""

    is_sampled = True

    def __init__(self, weights: CostWeights = DEFAULT) -> None:
        self._weights = weights
        self._lora = LoraAffinity()
        self._step_time = PoolStepTime()
        self._kv_demand = KvDemand()
        self._terms: dict[Endpoint, EndpointTerms] = {}
        self._terms_expire_s = -inf
        self._fleet_slowness: float | None = None

    def observe(self, endpoints: Sequence[Endpoint], now_s: float) -> None:
        if now_s < self._terms_expire_s:
            return
        self._terms.clear()
        self._terms_expire_s = now_s + TERMS_MAX_AGE_S
        self._fleet_slowness = fleet_slowness(endpoints, now_s)
        self._step_time.observe(endpoints, now_s)
        self._kv_demand.observe(endpoints, now_s)
        self._lora.observe(endpoints, now_s)
        for endpoint in endpoints:
            endpoint.fade_failures(now_s)

    def costs(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        cached_tokens: Sequence[int],
        now_s: float,
    ) -> Sequence[float]:
        tokens = request.prompt_tokens
        uncached_tokens: Sequence[float] = [tokens - cached if cached < tokens else 0 for cached in cached_tokens]
        if self._weights.miss_penalty != 1.0:
            uncached_tokens = [self._weights.miss_penalty * count for count in uncached_tokens]
        terms_of, error_weight = self._terms.get, self._weights.error_rate
        costs: list[float] = []
        # Unpacked rather than read by name: this loop takes most of the time of a decision.
        for endpoint, uncached, count in zip(endpoints, uncached_tokens, requests_at(endpoints), strict=True):
            (
                slowness, pressed, steps_s, first_step_s, per_token_s, shared_s, prefill_share, queue, next_step,
                queued_share,
            ) = terms_of(endpoint) or self._compute_terms(endpoint, now_s)  # fmt: skip
            prefill_s = per_token_s * uncached
            pending_s = per_token_s * (endpoint.in_flight.prefill_tokens + endpoint.foreign_prefill_tokens)
            wait_s = first_step_s + pending_s
            delay_s = count * (shared_s + prefill_share * prefill_s)
            if queue and (queued := (queue + 1) * uncached) > next_step:
                delay_s += queued_share * per_token_s * (queued - next_step)
            # Errors do not multiply the later steps: a server that has recovered would wait until they are forgotten.
            unhealthy = pressed * (1.0 + error_weight * endpoint.failing)
            costs.append(slowness * (steps_s + unhealthy * (wait_s + prefill_s + delay_s)))
        adapters = self._lora.tokens(request.model, endpoints)
        if adapters is None:
            return costs
        return [
            cost + adapter * (terms := self._terms[endpoint]).per_token_s * terms.slowness * terms.pressure
            for cost, adapter, endpoint in zip(costs, adapters, endpoints, strict=True)
        ]

    def _compute_terms(self, endpoint: Endpoint, now_s: float) -> EndpointTerms:
        weights, demand = self._weights, self._kv_demand
        metrics, missing = endpoint.metrics, endpoint.credibility.missing
        if metrics is not None and missing:
            metrics = demand.with_missing(metrics, missing, requests_there(endpoint))
        # A queue of no more tokens, the prompt included, waits for no other request if the KV cache has room for it.
        pressed, room, queue, next_step, queued_share = 1.0, 0.0, 0, MAX_NUM_BATCHED_TOKENS, 0.0
        if metrics is not None:
            usage = demand.usage(metrics, requests_there(endpoint))
            pressed = pressure(usage, metrics.queue_depth, metrics.running)
            if metrics.cache_tokens:
                room = weights.kv_room * demand.tokens / metrics.cache_tokens
                next_step = min(next_step, (1.0 - metrics.kv_cache_usage) * metrics.cache_tokens)
            else:
                room = weights.kv_room * metrics.kv_cache_usage / max(1, metrics.running)
            queue = metrics.queue_depth
            queued_share = weights.queue / (1.0 + max(0.0, now_s - metrics.scraped_at_s) / QUEUE_HALF_AGE_S)
        slowness = 1.0
        if self._fleet_slowness is not None:
            slowness = endpoint.speed.slowdown_vs(self._fleet_slowness, now_s)
            if missing and slowness < 1.0:
                # A server that reports too little load may report too short times as well.
                slowness = 1.0
        step = self._step_time.time
        per_sequence_s = step.per_sequence_s + step.per_context_token_s * (demand.tokens or UNKNOWN_SEQUENCE_TOKENS)
        terms = self._terms[endpoint] = EndpointTerms(
            slowness=slowness,
            pressure=pressed,
            steps_s=weights.steps * step.base_s,
            first_step_s=FIRST_TOKEN_STEPS * step.base_s,
            per_token_s=step.per_prompt_token_s,
            shared_s=0.5 * weights.steps * per_sequence_s + room * step.per_prompt_token_s * demand.answer_tokens,
            prefill_share=weights.interruption + room,
            queue=queue,
            next_step_tokens=next_step,
            queued_share=queued_share,
        )
        return terms
