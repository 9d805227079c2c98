"""Schedulers of other projects, by their published rules, on the picker's data."""

from collections.abc import Sequence
from random import Random

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.rejection import Rejection, RejectReason
from picker.scheduling.request import InferenceRequest, Ranking
from xxhash import xxh3_64_intdigest


def ranked(costs: Sequence[float], endpoints: Sequence[Endpoint], rng: Random, fallbacks: int = 3) -> Ranking:
    """Ranks endpoints by cost, the lowest first, and ties at random. Keeps the best and `fallbacks` more."""
    order = sorted((cost, rng.random(), index) for index, cost in enumerate(costs))
    return Ranking(tuple(endpoints[index] for _, _, index in order[: 1 + fallbacks]))


NONE_READY = Rejection(RejectReason.NO_READY_ENDPOINTS, "No model server of the pool is ready.")
SHED = Rejection(RejectReason.SATURATED, "All model servers are busy.")


class TwoChoices:
    """Envoy's least request: of two random endpoints, the one with fewer requests in flight."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Rejection:
        if not endpoints:
            return NONE_READY
        drawn = self._rng.sample(endpoints, min(2, len(endpoints)))
        first = min(drawn, key=self.load)
        others = [endpoint for endpoint in endpoints if endpoint is not first]
        self._rng.shuffle(others)
        return Ranking((first, *others[:3]))

    def load(self, endpoint: Endpoint) -> float:
        return endpoint.in_flight.requests


class TwoChoicesOfTokens(TwoChoices):
    """Of two random endpoints, the one with fewer tokens in flight: prompt tokens to prefill and expected output
    tokens."""

    def load(self, endpoint: Endpoint) -> float:
        return endpoint.in_flight.prefill_tokens + endpoint.in_flight.decode_tokens


def _least(values: Sequence[tuple[float, Endpoint]]) -> list[Endpoint]:
    """The endpoints whose value lies in the lowest n-th of the range, for n values."""
    low, high = min(value for value, _ in values), max(value for value, _ in values)
    bound = low + (high - low) / len(values)
    return [endpoint for value, endpoint in values if value <= bound]


class FilterTree:
    """The filter tree of the inference extension v0.3, over scraped queue, adapters and KV cache usage.

    It draws one of the endpoints that pass. Requests that are not Critical are shed if every endpoint has more than 5
    queued requests or uses more than 0.8 of its KV cache."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Rejection:
        if not endpoints:
            return NONE_READY
        known = [endpoint for endpoint in endpoints if endpoint.metrics is not None]
        if not known:
            return ranked([0.0] * len(endpoints), endpoints, self._rng)
        if request.priority <= 0:
            known = [endpoint for endpoint in known if self._queue(endpoint) <= 5 and self._kv(endpoint) <= 0.8]
            if not known:
                return SHED
        few_queued = [endpoint for endpoint in known if self._queue(endpoint) < 128]
        if few_queued:
            known = self._with_lora(request, few_queued)
        known = _least([(self._queue(endpoint), endpoint) for endpoint in known])
        known = _least([(self._kv(endpoint), endpoint) for endpoint in known])
        first = self._rng.choice(known)
        return Ranking((first, *(endpoint for endpoint in endpoints if endpoint is not first)))

    def _with_lora(self, request: InferenceRequest, endpoints: list[Endpoint]) -> list[Endpoint]:
        """The endpoints that run the adapter, else those with a free adapter slot, else all."""
        running = [endpoint for endpoint in endpoints if self._lora_cost(request, endpoint) == 0.0]
        free = [endpoint for endpoint in endpoints if self._lora_cost(request, endpoint) <= 0.5]
        return running or free or endpoints

    @staticmethod
    def _queue(endpoint: Endpoint) -> int:
        return endpoint.metrics.queue_depth if endpoint.metrics is not None else 0

    @staticmethod
    def _kv(endpoint: Endpoint) -> float:
        return endpoint.metrics.kv_cache_usage if endpoint.metrics is not None else 0.0

    @staticmethod
    def _lora_cost(request: InferenceRequest, endpoint: Endpoint) -> float:
        metrics = endpoint.metrics
        if metrics is None or not metrics.max_loras:
            return 1.0
        if request.model in metrics.active_loras:
            return 0.0
        return 0.5 if len(metrics.active_loras | metrics.waiting_loras) < metrics.max_loras else 1.0


class WeightedScorers:
    """The scorers of the inference extension v1: scraped queue (weight 2), KV cache usage (2), matched prefix (3).

    It picks the highest sum. Sheddable requests are shed if the mean saturation reaches 1."""

    def __init__(self, rng: Random, prefixes: PrefixIndex) -> None:
        self._rng = rng
        self._prefixes = prefixes

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Rejection:
        if not endpoints:
            return NONE_READY
        queues = [FilterTree._queue(endpoint) for endpoint in endpoints]  # pyright: ignore[reportPrivateUsage]
        if request.priority < 0 and self._saturation(endpoints) >= 1:
            return SHED
        low, high = min(queues), max(queues)
        matched = self._prefixes.matches(request.blocks, endpoints)
        blocks = len(request.blocks) or 1
        costs: list[float] = []
        for endpoint, queue, match in zip(endpoints, queues, matched, strict=True):
            queue_score = (high - queue) / (high - low) if high > low else 1.0
            kv = endpoint.metrics.kv_cache_usage if endpoint.metrics is not None else 0.0
            costs.append(-(2 * queue_score + 2 * (1 - kv) + 3 * match / blocks))
        return ranked(costs, endpoints, self._rng)

    @staticmethod
    def _saturation(endpoints: Sequence[Endpoint]) -> float:
        known = [endpoint.metrics for endpoint in endpoints if endpoint.metrics is not None]
        if not known:
            return 0.0
        return sum(max(metrics.queue_depth / 5, metrics.kv_cache_usage / 0.8) for metrics in known) / len(known)


class BoundedHashing:
    """Consistent hashing of the prefix with bounded loads (Mirrokni et al., 2016).

    Rendezvous hashing orders the endpoints for a prefix. The first with at most 1.25 times the mean load is picked."""

    BOUND = 1.25
    PREFIX_BLOCKS = 8
    """Blocks that are hashed: 512 tokens, the length of a short system prompt. Judgement."""

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Rejection:
        if not endpoints:
            return NONE_READY
        prefix = request.blocks[min(len(request.blocks), self.PREFIX_BLOCKS) - 1] if request.blocks else 0
        total = sum(endpoint.in_flight.requests for endpoint in endpoints) + 1
        bound = self.BOUND * total / len(endpoints)
        seed = prefix & (1 << 64) - 1
        ordered = sorted(endpoints, key=lambda endpoint: xxh3_64_intdigest(endpoint.address.encode(), seed))
        within = [endpoint for endpoint in ordered if endpoint.in_flight.requests + 1 <= bound]
        first = within[0] if within else min(ordered, key=lambda endpoint: endpoint.in_flight.requests)
        return Ranking((first, *[endpoint for endpoint in ordered if endpoint is not first][:3]))
