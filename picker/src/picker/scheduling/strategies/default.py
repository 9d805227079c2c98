"""DEFAULT: where a request takes and costs the least time."""

from collections.abc import Sequence
from math import inf

from picker.endpoints.endpoint import Endpoint
from picker.scheduling.request import InferenceRequest
from picker.scheduling.strategies.load import FAILING, SEQUENCE_TOKENS, STEP_TOKENS, fleet_pace, requests_at
from picker.scheduling.strategies.lora import LoraAffinity
from picker.scheduling.strategies.sharing import Sharing

SLOWED_TOKENS = 56.0
"""What a request costs each running sequence in the steps that they share, in prompt tokens."""

INTERRUPTED_SHARE = 0.1
"""What a prompt costs each running sequence that it interrupts, as a share of the prompt: a decoding client notices the
pause less than a waiting one, who has nothing yet."""

QUEUED_SHARE = 5.0
"""What a prompt costs for each request that waits on the server, as a share of the prompt: what is to be computed
there comes after all of them, and needs room that they wait for. What is cached already needs little."""

QUEUE_HALF_AGE_S = 0.25
"""A queue that was seen this long ago counts half: a prompt's time. Where scrapes are rare it may be gone long since,
and all that came meanwhile would herd onto the server that had none."""

HANDICAPS_KEPT_S = 0.02
"""How long what pressure, slowness and queues come to is kept: scrapes are ten times as far apart, and an answer
changes little. It saves work where requests come by the thousand, and is fresh where they do not."""


class LeastWork:
    """Cost = (work ahead of the first token + what the request costs those that wait and run there)
    x pressure x slowness^2 x failures.

    The sum is in prompt tokens. What the prefix cache holds of the prompt costs nothing, so a cached prefix attracts by
    as much as it saves. Slowness counts twice because it comes twice: until the first token, and in all after it.
    """

    miss = 1.0
    """Times its tokens that a prompt costs as far as it is not cached."""

    def __init__(self) -> None:
        self._sharing = Sharing()
        self._lora = LoraAffinity()
        self._handicaps: dict[Endpoint, tuple[float, float]] = {}
        self._handicaps_until_s = -inf
        self._fleet_s_per_token: float | None = None

    def notable(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        home = self._sharing.home(request, endpoints)
        return () if home is None else (home,)

    def costs(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        cached_tokens: Sequence[int],
        notable: Sequence[Endpoint] | None,
        now_s: float,
    ) -> Sequence[float]:
        running = requests_at(endpoints)
        tokens = request.prompt_tokens
        fresh: Sequence[float]
        if notable:
            fresh = self._sharing.fresh_tokens(request, endpoints, cached_tokens, notable[0])
        else:
            fresh = [tokens - cached if cached < tokens else 0 for cached in cached_tokens]
        if self.miss != 1.0:
            fresh = [self.miss * each for each in fresh]
        return self.costs_of(request, endpoints, fresh, running, now_s)

    def costs_of(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        fresh_tokens: Sequence[float],
        running: Sequence[int],
        now_s: float,
    ) -> Sequence[float]:
        """The same by the prompt tokens that each endpoint has to compute, and the requests there."""
        if now_s >= self._handicaps_until_s:
            self._handicaps.clear()
            self._handicaps_until_s = now_s + HANDICAPS_KEPT_S
            self._fleet_s_per_token = fleet_pace(endpoints, now_s)
            self._sharing.look(endpoints, running)
        handicap_of = self._handicaps.get
        costs: list[float] = []
        # Written out rather than called: this loop is most of what a decision takes. `load.work_ahead` is the same.
        for endpoint, fresh, count in zip(endpoints, fresh_tokens, running, strict=True):
            ahead = (
                STEP_TOKENS
                + SEQUENCE_TOKENS * count
                + endpoint.in_flight.prefill_tokens
                + endpoint.others_prefill_tokens
                + fresh
            )
            handicap, queued = handicap_of(endpoint) or self._handicap(endpoint, now_s)
            others = count * (SLOWED_TOKENS + INTERRUPTED_SHARE * fresh) + queued * fresh
            costs.append((ahead + others) * handicap * (1.0 + FAILING * endpoint.failing))
        adapters = self._lora.tokens(request.model, endpoints)
        if adapters is None:
            return costs
        return [
            cost + adapter * self._handicaps[endpoint][0]
            for cost, adapter, endpoint in zip(costs, adapters, endpoints, strict=True)
        ]

    def _handicap(self, endpoint: Endpoint, now_s: float) -> tuple[float, float]:
        """How many times as dear work is there as its amount says, and the share of a prompt that it costs those that
        wait."""
        metrics = endpoint.metrics
        handicap, queued = 1.0, 0.0
        if metrics is not None:
            handicap = metrics.pressure
            age_s = max(0.0, now_s - metrics.scraped_at_s)
            queued = QUEUED_SHARE * metrics.queue_depth / (1.0 + age_s / QUEUE_HALF_AGE_S)
        if self._fleet_s_per_token is not None:
            slowness = endpoint.pace.against(self._fleet_s_per_token, now_s)
            handicap *= slowness * slowness
        self._handicaps[endpoint] = handicap, queued
        return handicap, queued
