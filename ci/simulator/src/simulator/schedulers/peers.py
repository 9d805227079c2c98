"""What others do, to be compared with: the rules as published, on the picker's own data."""

from collections.abc import Sequence
from random import Random

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.rejection import Rejection, RejectReason
from picker.resources.inference import Criticality
from picker.scheduling.request import InferenceRequest, Ranking
from xxhash import xxh3_64_intdigest


def ranked(costs: Sequence[float], endpoints: Sequence[Endpoint], rng: Random, fallbacks: int = 3) -> Ranking:
    """Cheapest first, equals by lot."""
    order = sorted((cost, rng.random(), index) for index, cost in enumerate(costs))
    return Ranking(tuple(endpoints[index] for _, _, index in order[: 1 + fallbacks]))


NONE_READY = Rejection(RejectReason.NO_READY_ENDPOINTS, "No model server of the pool is ready.")
SHED = Rejection(RejectReason.SATURATED, "All model servers are busy.")


class TwoChoices:
    """Envoy's least request: of two endpoints drawn at random the one with fewer requests in flight."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Rejection:
        if not endpoints:
            return NONE_READY
        drawn = self._rng.sample(endpoints, min(2, len(endpoints)))
        first = min(drawn, key=self.load)
        others = [each for each in endpoints if each is not first]
        self._rng.shuffle(others)
        return Ranking((first, *others[:3]))

    def load(self, endpoint: Endpoint) -> float:
        return endpoint.in_flight.requests


class TwoChoicesOfTokens(TwoChoices):
    """The same by tokens in flight: prompts not yet computed and answers expected."""

    def load(self, endpoint: Endpoint) -> float:
        return endpoint.in_flight.prefill_tokens + endpoint.in_flight.decode_tokens


def _least(values: Sequence[tuple[float, Endpoint]]) -> list[Endpoint]:
    """Those in the lowest n-th of the range of n values."""
    low, high = min(value for value, _ in values), max(value for value, _ in values)
    bound = low + (high - low) / len(values)
    return [endpoint for value, endpoint in values if value <= bound]


class FilterTree:
    """The inference extension's v0.3: a tree of filters over scraped queue, adapters and KV use; the last choice is
    drawn. All but Critical requests are shed when every server queues 5 or uses 0.8 of its cache."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Rejection:
        if not endpoints:
            return NONE_READY
        known = [each for each in endpoints if each.metrics is not None]
        if not known:
            return ranked([0.0] * len(endpoints), endpoints, self._rng)
        if request.criticality is not Criticality.CRITICAL:
            known = [each for each in known if self._queue(each) <= 5 and self._kv(each) <= 0.8]
            if not known:
                return SHED
        few_queued = [each for each in known if self._queue(each) < 128]
        if few_queued:
            known = self._with_lora(request, few_queued)
        known = _least([(self._queue(each), each) for each in known])
        known = _least([(self._kv(each), each) for each in known])
        first = self._rng.choice(known)
        return Ranking((first, *(each for each in endpoints if each is not first)))

    def _with_lora(self, request: InferenceRequest, endpoints: list[Endpoint]) -> list[Endpoint]:
        """Those that run the adapter, or have a free place for one."""
        low = [each for each in endpoints if self._lora_cost(request, each) == 0.0]
        free = [each for each in endpoints if self._lora_cost(request, each) <= 0.5]
        return low or free or endpoints

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
    """The inference extension's v1: scraped queue (weight 2), KV use (2) and matched prefix (3); the highest sum."""

    def __init__(self, rng: Random, prefixes: PrefixIndex) -> None:
        self._rng = rng
        self._prefixes = prefixes

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Rejection:
        if not endpoints:
            return NONE_READY
        queues = [FilterTree._queue(each) for each in endpoints]  # pyright: ignore[reportPrivateUsage]
        if request.criticality is Criticality.SHEDDABLE and self._saturation(endpoints) >= 1:
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
        known = [each.metrics for each in endpoints if each.metrics is not None]
        if not known:
            return 0.0
        return sum(max(each.queue_depth / 5, each.kv_cache_usage / 0.8) for each in known) / len(known)


class BoundedHashing:
    """Consistent hashing of the prefix with bounded loads (Mirrokni et al., 2016): the first endpoint in the prefix's
    own order that has at most 1.25 times the mean load. The order is by rendezvous."""

    BOUND = 1.25
    PREFIX_BLOCKS = 8
    """Hashed: 512 tokens, the length of a short system prompt."""

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Rejection:
        if not endpoints:
            return NONE_READY
        prefix = request.blocks[min(len(request.blocks), self.PREFIX_BLOCKS) - 1] if request.blocks else 0
        total = sum(each.in_flight.requests for each in endpoints) + 1
        bound = self.BOUND * total / len(endpoints)
        keyed = sorted(endpoints, key=lambda each: xxh3_64_intdigest(each.address.encode(), prefix & (1 << 64) - 1))
        within = [each for each in keyed if each.in_flight.requests + 1 <= bound]
        first = within[0] if within else min(keyed, key=lambda each: each.in_flight.requests)
        return Ranking((first, *[each for each in keyed if each is not first][:3]))
