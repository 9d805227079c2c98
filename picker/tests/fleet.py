"""Endpoints, requests and schedulers for tests of decisions."""

from collections.abc import Sequence
from random import Random

from picker.endpoints.endpoint import Endpoint, InFlight, ServerMetrics
from picker.endpoints.in_flight import CountedRequest, InFlightTracker
from picker.endpoints.load.prefill_tracker import PrefillCounters, Prompt
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.resources.inference import RoutingStrategy
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
    kv_blocks: int | None = None,
    in_flight_at_scrape: int = 0,
    refused: bool = False,
    scraped: bool = True,
) -> Endpoint:
    """An endpoint with `tokens` prefill tokens in flight, blocks of 16 tokens, and a scrape at second 0."""
    metrics = ServerMetrics(
        queue_depth=queue_depth,
        running=running,
        kv_cache_usage=kv,
        block_size_tokens=kv_blocks and 16,
        kv_blocks=kv_blocks,
        in_flight_at_scrape=in_flight_at_scrape,
        scraped_at_s=0.0,
    )
    return Endpoint(
        address=f"10.0.0.{number}:8000",
        server=f"qwen-{number}",
        metrics=metrics if scraped else None,
        in_flight=InFlight(requests=requests, prefill_tokens=tokens),
        unreachable_since_s=0.0 if refused else None,
    )


def scrape(
    tracker: InFlightTracker,
    where: Endpoint,
    now_s: float,
    *,
    first_tokens: int = 0,
    seconds: float = 0.0,
    prompt_tokens: int = 0,
    looked_up_tokens: int = 0,
    others: int = 0,
    queue_depth: int = 0,
) -> None:
    """Scrape `where`, which has done so much since the last scrape. `seconds` is the sum of its times to first token.
    `others` foreign requests are there. All requests run, except for those in the queue."""
    before = where.metrics.progress if where.metrics is not None and where.metrics.progress is not None else ZERO
    progress = PrefillCounters(
        before.first_tokens + first_tokens,
        before.first_token_s + seconds,
        before.prompt_tokens + prompt_tokens,
        before.prefix_queries + looked_up_tokens,
        before.prefix_hits,
    )
    own = where.in_flight.requests
    tracker.scraped(
        where,
        ServerMetrics(
            queue_depth,
            own + others - queue_depth,
            0.0,
            scraped_at_s=now_s,
            in_flight_at_scrape=own,
            progress=progress,
        ),
    )


def begin(
    tracker: InFlightTracker,
    where: Endpoint,
    prefill_tokens: int,
    decode_tokens: int,
    predicted_s: float = 0.0,
    now_s: float = 0.0,
    model: str | None = None,
    sequences: int = 1,
) -> CountedRequest:
    """A request that is counted on `where` from now on."""
    counted = CountedRequest(where, Prompt(prefill_tokens, predicted_s, now_s, sequences), decode_tokens, model)
    tracker.begin(counted, now_s)
    return counted


ZERO = PrefillCounters(0.0, 0.0, 0.0)


def request(
    *,
    priority: int = 0,
    blocks: tuple[int, ...] = (),
    tokens: int = 1000,
    subset: frozenset[str] | None = None,
) -> InferenceRequest:
    return InferenceRequest(
        model="m", priority=priority, prompt_tokens=tokens, output_tokens=100, blocks=blocks, subset=subset
    )


class SeenScheduler(Scheduler):
    """A scheduler whose prefix index and costs are accessible to tests."""

    def seen(self, where: Endpoint, blocks: tuple[int, ...]) -> None:
        self.prefixes.record(where, blocks)

    def costs(self, what: InferenceRequest, endpoints: Sequence[Endpoint]) -> Sequence[float]:
        strategy = STRATEGIES[self.strategy]()
        strategy.observe(endpoints, 0.0)
        return strategy.costs(what, endpoints, [0] * len(endpoints), 0.0)


def scheduler(strategy: RoutingStrategy = RoutingStrategy.DEFAULT, rng: Random | None = None) -> SeenScheduler:
    return SeenScheduler(strategy, PrefixIndex(block_tokens=64), rng or Random(1))
