"""A replica of the picker: its own view of the fleet, and the picker's code as it is."""

from dataclasses import dataclass
from functools import partial
from random import Random

from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.metrics.scraper import at_rest_s, rests
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.rejection import Rejection
from picker.requestcontrol.director import BLOCK_TOKENS, MAX_BLOCKS
from picker.requestcontrol.in_flight_request import InFlightRequest, schedule
from picker.scheduling.request import InferenceRequest

from simulator.engine.fleet import Fleet, Replica
from simulator.engine.timeline import Timeline
from simulator.schedulers.perfect_information import Truth
from simulator.schedulers.registry import Contender
from simulator.workload.content import picker_blocks
from simulator.workload.generator import Turn
from simulator.workload.scenario import Scenario


class Picker:
    """Scrapes the fleet, keeps a ledger, and decides by a contender's scheduler."""

    def __init__(
        self, scenario: Scenario, contender: Contender, fleet: Fleet, truth: Truth, timeline: Timeline, rng: Random
    ) -> None:
        self._scenario = scenario
        self._fleet = fleet
        self._truth = truth
        self._timeline = timeline
        self._rng = rng
        self._learns = contender.learns
        self._glances_every_s = contender.glances_every_s
        self._glances: list[_Glance] = []
        self._ledger = InFlightTracker()
        self._prefixes = PrefixIndex(BLOCK_TOKENS)
        self._scheduler = contender.scheduler(self._prefixes, rng, truth)
        self._known: dict[str, Endpoint] = {}
        self._endpoints: list[Endpoint] = []
        fleet.listeners.append(self._follow)
        self._follow()

    def pick(self, turn: Turn) -> InFlightRequest | Rejection:
        """Where `turn` goes now."""
        self._truth.turn = turn
        if self._glances_every_s is not None:
            self._glance(self._glances_every_s)
        error = self._scenario.estimate_error
        estimate = turn.prompt_tokens * (self._rng.lognormvariate(0, error) if error else 1.0)
        request = InferenceRequest(
            model=turn.lora or "base",
            criticality=turn.criticality,
            prompt_tokens=max(1, round(estimate)),
            output_tokens=turn.max_tokens,
            blocks=picker_blocks(turn.content, turn.prompt_tokens, BLOCK_TOKENS)[:MAX_BLOCKS],
            conversation=turn.conversation,
            continues=turn.continues,
        )
        return schedule(request, self._endpoints, self._scheduler, self._prefixes, self._ledger, self._timeline.now_s)

    def _follow(self) -> None:
        """The fleet has changed."""
        ready = {replica.address: replica for replica in self._fleet.ready}
        for address in self._known.keys() - ready.keys():
            self._prefixes.forget(self._known.pop(address))
        for address, replica in ready.items():
            if address not in self._known:
                endpoint = self._known[address] = Endpoint(address, f"vllm-{address}")
                if self._learns:
                    first_s = self._rng.uniform(0, self._scenario.scrapes.interval_s)
                    self._timeline.after(first_s, partial(self._scrape, endpoint, replica))
                elif self._glances_every_s is not None:
                    first_s = self._timeline.now_s + self._rng.uniform(0, self._glances_every_s)
                    self._glances.append(_Glance(endpoint, replica, first_s))
        self._endpoints[:] = [self._known[address] for address in ready]
        self._glances = [each for each in self._glances if self._known.get(each.endpoint.address) is each.endpoint]

    def _scrape(self, endpoint: Endpoint, replica: Replica) -> None:
        """Read the server's numbers now; they are known a little later."""
        if self._known.get(endpoint.address) is not endpoint:
            return
        now_s, scrapes = self._timeline.now_s, self._scenario.scrapes
        interval_s = scrapes.interval_s
        if replica.listening:
            metrics = self._metrics(endpoint, replica, now_s)
            self._timeline.after(scrapes.delay_s, partial(self._scraped, endpoint, metrics))
            if rests(metrics, endpoint.in_flight.requests):
                interval_s = at_rest_s(interval_s)
        elif endpoint.unreachable_since_s is None:
            endpoint.unreachable_since_s = now_s
        self._timeline.after(interval_s * self._jitter(), partial(self._scrape, endpoint, replica))

    def _scraped(self, endpoint: Endpoint, metrics: ServerMetrics) -> None:
        self._ledger.scraped(endpoint, metrics)
        endpoint.unreachable_since_s = None

    def _glance(self, every_s: float) -> None:
        """Work out what the newest scrapes told that are known by now: those between two decisions, nobody sees."""
        known_s = self._timeline.now_s - self._scenario.scrapes.delay_s
        for each in self._glances:
            scraped_s = None
            while each.next_s <= known_s:
                scraped_s = each.next_s
                each.next_s += every_s * self._jitter()
            if scraped_s is not None and each.replica.listening:
                each.endpoint.metrics = self._metrics(each.endpoint, each.replica, scraped_s)

    def _metrics(self, endpoint: Endpoint, replica: Replica, at_s: float) -> ServerMetrics:
        state = replica.engine.state(at_s)
        return ServerMetrics(
            queue_depth=state.waiting,
            running=state.running,
            kv_cache_usage=state.kv_cache_usage,
            active_loras=state.loras,
            waiting_loras=state.loras,
            max_loras=replica.config.max_loras,
            block_size_tokens=replica.config.block_size,
            kv_blocks=replica.config.num_gpu_blocks,
            scraped_at_s=at_s + self._scenario.scrapes.delay_s,
            in_flight_at_scrape=endpoint.in_flight.requests,
            progress=state.counters if self._learns else None,
        )

    def _jitter(self) -> float:
        jitter = self._scenario.scrapes.jitter
        return self._rng.uniform(1 - jitter, 1 + jitter)


@dataclass(slots=True)
class _Glance:
    """At a server's load, over and over."""

    endpoint: Endpoint
    replica: Replica
    next_s: float
