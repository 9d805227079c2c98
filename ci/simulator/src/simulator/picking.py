"""A replica of the picker: its own view of the fleet, and the picker's code as it is."""

from functools import partial
from random import Random

from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.endpoints.ledger import Ledger
from picker.endpoints.prefixes import PrefixIndex
from picker.endpoints.scraper import at_rest_s, rests
from picker.extproc.desk import BLOCK_TOKENS, MAX_BLOCKS
from picker.scheduling.dispatch import Dispatched, dispatch
from picker.scheduling.request import InferenceRequest, Refusal

from simulator.contenders import Contender
from simulator.content import picker_blocks
from simulator.fleet import Fleet, Replica
from simulator.oracle import Truth
from simulator.scenario import Scenario
from simulator.timeline import Timeline
from simulator.workload import Turn


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
        self._interval_s = contender.scrape_interval_s or scenario.scrapes.interval_s
        self._scrapes = contender.scrapes
        self._learns = contender.learns
        self._ledger = Ledger()
        self._prefixes = PrefixIndex(BLOCK_TOKENS)
        self._scheduler = contender.scheduler(self._prefixes, rng, truth)
        self._known: dict[str, Endpoint] = {}
        self._endpoints: list[Endpoint] = []
        fleet.listeners.append(self._follow)
        self._follow()

    def pick(self, turn: Turn) -> Dispatched | Refusal:
        """Where `turn` goes now."""
        self._truth.turn = turn
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
        return dispatch(request, self._endpoints, self._scheduler, self._prefixes, self._ledger, self._timeline.now_s)

    def _follow(self) -> None:
        """The fleet has changed."""
        ready = {replica.address: replica for replica in self._fleet.ready}
        for address in self._known.keys() - ready.keys():
            self._prefixes.forget(self._known.pop(address))
        for address, replica in ready.items():
            if address not in self._known:
                endpoint = self._known[address] = Endpoint(address, f"vllm-{address}")
                if self._scrapes:
                    self._timeline.after(
                        self._rng.uniform(0, self._interval_s), partial(self._scrape, endpoint, replica)
                    )
        self._endpoints[:] = [self._known[address] for address in ready]

    def _scrape(self, endpoint: Endpoint, replica: Replica) -> None:
        """Read the server's numbers now; they are known a little later."""
        if self._known.get(endpoint.address) is not endpoint:
            return
        now_s, interval_s = self._timeline.now_s, self._interval_s
        if replica.listening:
            state = replica.engine.state(now_s)
            metrics = ServerMetrics(
                queue_depth=state.waiting,
                running=state.running,
                kv_cache_usage=state.kv_cache_usage,
                active_loras=state.loras,
                waiting_loras=state.loras,
                max_loras=replica.config.max_loras,
                block_size_tokens=replica.config.block_size,
                kv_blocks=replica.config.num_gpu_blocks,
                scraped_at_s=now_s + self._scenario.scrapes.delay_s,
                in_flight_then=endpoint.in_flight.requests,
                progress=state.counters if self._learns else None,
            )
            self._timeline.after(self._scenario.scrapes.delay_s, partial(self._scraped, endpoint, metrics))
            if self._learns and rests(metrics, endpoint.in_flight.requests):
                interval_s = at_rest_s(interval_s)
        elif endpoint.refused_since_s is None:
            endpoint.refused_since_s = now_s
        jitter = self._scenario.scrapes.jitter
        pause_s = interval_s * self._rng.uniform(1 - jitter, 1 + jitter)
        self._timeline.after(pause_s, partial(self._scrape, endpoint, replica))

    def _scraped(self, endpoint: Endpoint, metrics: ServerMetrics) -> None:
        if self._learns:
            self._ledger.scraped(endpoint, metrics)
        else:
            endpoint.metrics = metrics
        endpoint.refused_since_s = None
