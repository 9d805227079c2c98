"""DEFAULT: where a request takes and costs the least time."""

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
    fleet_pace,
    requests_at,
    requests_there,
)

SLOWED_TOKENS = 56.0
"""What a request costs each running sequence in the steps that they share, in prompt tokens."""

INTERRUPTED_SHARE = 0.1
"""What a prompt costs each running sequence that it interrupts, as a share of the prompt: a decoding client notices the
pause less than a waiting one, who has nothing yet."""

ROOM_SHARE = 6.0
"""What the room for a request costs, as a share of the tokens that it will hold, where those there fill the KV cache;
in proportion where they fill less of it. It evens the caches out, and what is cached already needs no new room."""

QUEUED_SHARE = 10.0
"""What a prompt costs for each request that waits on the server, as a share of the prompt: what is to be computed
there comes after all of them, and needs room that they wait for. What is cached already needs little."""

NEXT_STEP_TOKENS = 2048.0
"""A queue of no more, with the prompt itself, is none where the KV cache has room for it: it is computed in the next
step (vLLM's `max_num_batched_tokens` on cards like these)."""

QUEUE_HALF_AGE_S = 1.0
"""A queue that was seen this long ago counts half. Where scrapes are rare it may be gone long since, and all that came
meanwhile would herd onto the server that had none."""

SLOWNESS_POWER = 2.5
"""A slow server takes longer until the first token and in all after it, and what runs there stays the longer. Squared,
a server of half the speed still gets too much; cubed, one of twice the speed does."""

HANDICAPS_KEPT_S = 0.02
"""How long what pressure, slowness and queues come to is kept: scrapes are ten times as far apart, and an answer
changes little. It saves work where requests come by the thousand, and is fresh where they do not."""


class EndpointTerms(NamedTuple):
    """What makes an endpoint dearer than its work."""

    factor: float
    """Pressure times slowness to its power."""
    shared_tokens: float
    """What another request costs each of those there whatever its prompt: in the steps that they share, and by the room
    that its answer takes."""
    prompt_share: float
    """Of its prompt, what that costs each of those there: by the interruption, and by its room."""
    queue: int
    next_step_tokens: float
    """Of the queue and the prompt, what the next step takes."""
    queued_share: float
    """Of a prompt, what it costs for each request in the queue: the less, the older the scrape is."""


class PredictedCost:
    """Cost = (work ahead of the first token + what the request costs those that wait and run there)
    x pressure x slowness^2.5 x failures.

    The sum is in prompt tokens. What the prefix cache holds of the prompt costs nothing, so a cached prefix attracts by
    as much as it saves.
    """

    miss = 1.0
    """Times its tokens that a prompt costs as far as it is not cached."""

    def __init__(self) -> None:
        self._sharing = CrossPickerAffinity()
        self._lora = LoraAffinity()
        self._handicaps: dict[Endpoint, EndpointTerms] = {}
        self._handicaps_until_s = -inf
        self._fleet_s_per_token: float | None = None
        self._held = KvDemand()

    def required_candidates(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        preferred_endpoint = self._sharing.preferred_endpoint(request, endpoints)
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
        fresh: Sequence[float]
        if required_candidates:
            fresh = self._sharing.uncached_tokens(request, endpoints, cached_tokens, required_candidates[0])
        else:
            fresh = [tokens - cached if cached < tokens else 0 for cached in cached_tokens]
        if self.miss != 1.0:
            fresh = [self.miss * each for each in fresh]
        return self.costs_of(request, endpoints, fresh, running, now_s)

    def costs_of(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        uncached_tokens: Sequence[float],
        running: Sequence[int],
        now_s: float,
    ) -> Sequence[float]:
        """The same by the prompt tokens that each endpoint has to compute, and the requests there."""
        if now_s >= self._handicaps_until_s:
            self._handicaps.clear()
            self._handicaps_until_s = now_s + HANDICAPS_KEPT_S
            self._fleet_s_per_token = fleet_pace(endpoints, now_s)
            self._held.observe(endpoints, now_s)
            self._sharing.observe(endpoints, running)
            self._lora.observe(endpoints, now_s)
            for endpoint in endpoints:
                endpoint.fade_failures(now_s)
        handicap_of = self._handicaps.get
        costs: list[float] = []
        # Written out rather than called: this loop is most of what a decision takes. `load.work_ahead` is the same.
        for endpoint, fresh, count in zip(endpoints, uncached_tokens, running, strict=True):
            ahead = (
                STEP_TOKENS
                + SEQUENCE_TOKENS * count
                + endpoint.in_flight.prefill_tokens
                + endpoint.foreign_prefill_tokens
                + fresh
            )
            factor, shared, share, queue, next_step, queued_share = handicap_of(endpoint) or self._handicap(
                endpoint, now_s
            )
            others = count * (shared + share * fresh)
            if queue and (queued := (queue + 1) * fresh) > next_step:
                others += queued_share * (queued - next_step)
            costs.append((ahead + others) * factor * (1.0 + FAILING * endpoint.failing))
        adapters = self._lora.tokens(request.model, endpoints)
        if adapters is None:
            return costs
        return [
            cost + adapter * self._handicaps[endpoint].factor
            for cost, adapter, endpoint in zip(costs, adapters, endpoints, strict=True)
        ]

    def _handicap(self, endpoint: Endpoint, now_s: float) -> EndpointTerms:
        metrics, missing = endpoint.metrics, endpoint.credibility.missing
        if metrics is not None and missing:
            metrics = self._held.with_missing(metrics, missing, requests_there(endpoint))
        factor, room, queue, next_step, queued_share = 1.0, 0.0, 0, NEXT_STEP_TOKENS, 0.0
        if metrics is not None:
            usage = self._held.usage(metrics, requests_there(endpoint))
            factor = pressure(usage, metrics.queue_depth, metrics.running)
            if metrics.cache_tokens:
                room = ROOM_SHARE * self._held.tokens / metrics.cache_tokens
                next_step = min(next_step, (1.0 - metrics.kv_cache_usage) * metrics.cache_tokens)
            else:
                room = ROOM_SHARE * metrics.kv_cache_usage / max(1, metrics.running)
            queue = metrics.queue_depth
            queued_share = QUEUED_SHARE / (1.0 + max(0.0, now_s - metrics.scraped_at_s) / QUEUE_HALF_AGE_S)
        if self._fleet_s_per_token is not None:
            slowness = endpoint.pace.slowdown_vs(self._fleet_s_per_token, now_s)
            if missing and slowness < 1.0:
                # Its times are no more believed than its load.
                slowness = 1.0
            factor *= slowness**SLOWNESS_POWER
        handicap = self._handicaps[endpoint] = EndpointTerms(
            factor,
            SLOWED_TOKENS + room * self._held.answer_tokens,
            INTERRUPTED_SHARE + room,
            queue,
            next_step,
            queued_share,
        )
        return handicap


class PrefixCacheCost(PredictedCost):
    """PREFIX_CACHE: DEFAULT's cost with a higher price for tokens that are not cached."""

    miss = 1.2
    """What is computed again also takes the place of what others have cached."""
