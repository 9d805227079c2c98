"""Endpoints, requests and schedulers for tests of decisions."""

from collections.abc import Sequence
from random import Random

from picker.endpoints.endpoint import Endpoint, InFlight, ServerMetrics
from picker.endpoints.prefixes import PrefixIndex
from picker.resources.inference import Criticality, RoutingStrategy
from picker.scheduling.request import InferenceRequest
from picker.scheduling.scheduler import Scheduler
from picker.scheduling.strategies import STRATEGIES


def endpoint(
    number: int,
    *,
    requests: int = 0,
    tokens: int = 0,
    running: int = 0,
    queue_depth: int = 0,
    kv: float = 0.0,
    in_flight_then: int = 0,
    refused: bool = False,
    scraped: bool = True,
) -> Endpoint:
    """One endpoint; `tokens` are prefill tokens in flight, the scrape is of second 0."""
    metrics = ServerMetrics(
        queue_depth=queue_depth, running=running, kv_cache_usage=kv, in_flight_then=in_flight_then, scraped_at_s=0.0
    )
    return Endpoint(
        address=f"10.0.0.{number}:8000",
        server=f"qwen-{number}",
        metrics=metrics if scraped else None,
        in_flight=InFlight(requests=requests, prefill_tokens=tokens),
        refused_since_s=0.0 if refused else None,
    )


def request(
    *,
    criticality: Criticality = Criticality.STANDARD,
    blocks: tuple[int, ...] = (),
    tokens: int = 1000,
    subset: frozenset[str] | None = None,
) -> InferenceRequest:
    return InferenceRequest(
        model="m", criticality=criticality, prompt_tokens=tokens, output_tokens=100, blocks=blocks, subset=subset
    )


class SeenScheduler(Scheduler):
    """A scheduler whose prefix index and costs a test can reach."""

    def seen(self, where: Endpoint, blocks: tuple[int, ...]) -> None:
        self._prefixes.record(where, blocks)

    def costs(self, what: InferenceRequest, endpoints: Sequence[Endpoint]) -> Sequence[float]:
        return STRATEGIES[self.strategy]().costs(what, endpoints, [0] * len(endpoints), (), 0.0)


def scheduler(strategy: RoutingStrategy = RoutingStrategy.DEFAULT, rng: Random | None = None) -> SeenScheduler:
    return SeenScheduler(strategy, PrefixIndex(block_tokens=64), rng or Random(1))
