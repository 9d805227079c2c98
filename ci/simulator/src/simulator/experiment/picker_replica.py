"""A replica of the picker: the picker's code, its exchange included, with its own view of the fleet."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.metrics.schedule import JITTER, ScrapeSchedule
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.peers.peer_state import PeerState
from picker.peers.publisher import Publisher
from picker.rejection import Rejection
from picker.requestcontrol.director import BLOCK_TOKENS, MAX_BLOCKS
from picker.requestcontrol.in_flight_request import InFlightRequest, schedule
from picker.scheduling.request import InferenceRequest

from simulator.engine.fleet import Fleet, Replica
from simulator.engine.timeline import Timeline
from simulator.schedulers.perfect_information import GroundTruth
from simulator.schedulers.registry import SchedulerSpec
from simulator.workload.content import picker_blocks
from simulator.workload.generator import Turn
from simulator.workload.scenario import Scenario


class Picker:
    """Scrapes the fleet, counts requests in flight, and schedules requests."""

    def __init__(
        self,
        scenario: Scenario,
        spec: SchedulerSpec,
        fleet: Fleet,
        ground_truth: GroundTruth,
        timeline: Timeline,
        rng: Random,
    ) -> None:
        self._scenario = scenario
        self._fleet = fleet
        self._ground_truth = ground_truth
        self._timeline = timeline
        self._rng = rng
        self._uses_counters = spec.uses_counters
        self._polls_every_s = spec.polls_every_s
        self._polled: list[_PolledMetrics] = []
        self._tracker = InFlightTracker()
        self._tracker.on_outran_scrape = self._hasten
        self._prefixes = PrefixIndex(BLOCK_TOKENS)
        self._scheduler = spec.make(self._prefixes, rng, ground_truth)
        self._known: dict[str, Endpoint] = {}
        self._scraped: dict[Endpoint, _ScrapedMetrics] = {}
        self.scrapes: list[float] = []
        """Times of all scrapes."""
        self.endpoints: list[Endpoint] = []
        self._publisher: Publisher | None = None
        self._peers: list[PeerState] = []
        fleet.listeners.append(self._update_endpoints)
        self._update_endpoints()

    def pick(self, turn: Turn) -> InFlightRequest | Rejection:
        """Schedules the request of `turn`, and counts it as in flight unless it is rejected."""
        self._ground_truth.turn = turn
        if self._polls_every_s is not None:
            self._poll(self._polls_every_s)
        error = self._scenario.estimate_error
        estimate = turn.prompt_tokens * (self._rng.lognormvariate(0, error) if error else 1.0)
        request = InferenceRequest(
            model=turn.lora or "base",
            priority=turn.criticality.priority,
            prompt_tokens=max(1, round(estimate)),
            output_tokens=turn.max_tokens,
            blocks=picker_blocks(turn.content, turn.prompt_tokens, BLOCK_TOKENS)[:MAX_BLOCKS],
        )
        now_s = self._timeline.now_s
        picked = schedule(request, self.endpoints, self._scheduler, self._prefixes, self._tracker, now_s)
        if self._publisher is not None and not isinstance(picked, Rejection):
            self._publisher.scheduled(picked)
        return picked

    def served_by(self, request: InFlightRequest, address: str) -> None:
        """The server at `address` accepts `request`."""
        before = request.endpoint
        request.served_by(address)
        if self._publisher is not None and request.endpoint is not before:
            self._publisher.moved(request)

    def end(self, request: InFlightRequest) -> None:
        """The response has ended."""
        if self._publisher is not None:
            self._publisher.ended(request)
        request.end(self._timeline.now_s)

    def report_to(self, others: "Sequence[Picker]", every_s: float) -> None:
        """Reports to the `others` what is scheduled and what ends: at once, but at most every `every_s` seconds."""
        publisher = self._publisher = Publisher(lambda: self._timeline.now_s, "")
        publisher.active = True
        states = [other.peer() for other in others]
        for state in states:
            state.apply(publisher.hello(), self._timeline.now_s)
        flushed_s = -every_s

        def flush() -> None:
            nonlocal flushed_s
            flushed_s = self._timeline.now_s
            arrives_s = flushed_s + self._scenario.network_s
            batch = publisher.flush()
            for state in states:
                self._timeline.at(arrives_s, partial(state.apply, batch, arrives_s))

        def changed(is_full: bool) -> None:
            if not is_full:
                self._timeline.at(max(self._timeline.now_s, flushed_s + every_s), flush)

        publisher.on_changed = changed

    def peer(self) -> PeerState:
        """Returns the state of a new peer of this picker."""
        self._peers.append(PeerState(self._tracker, self))
        return self._peers[-1]

    def endpoint(self, address: str, server: str) -> Endpoint | None:
        """Implements `Directory`."""
        return self._known.get(address)

    def prefixes(self, pool: str) -> PrefixIndex:
        """Implements `Directory`: there is one pool."""
        return self._prefixes

    def _update_endpoints(self) -> None:
        """Adopts a change of the fleet."""
        ready = {replica.address: replica for replica in self._fleet.ready}
        for address in self._known.keys() - ready.keys():
            endpoint = self._known.pop(address)
            self._prefixes.forget(endpoint)
            self._scraped.pop(endpoint, None)
        for address, replica in ready.items():
            if address not in self._known:
                endpoint = self._known[address] = Endpoint(address, f"vllm-{address}")
                if self._uses_counters:
                    schedule = ScrapeSchedule(endpoint, self._scenario.scrapes.intervals, self._rng)
                    scraped = self._scraped[endpoint] = _ScrapedMetrics(endpoint, replica, schedule)
                    self._scrape_at(scraped, schedule.first_s(self._timeline.now_s))
                elif self._polls_every_s is not None:
                    first_s = self._timeline.now_s + self._rng.uniform(0, self._polls_every_s)
                    self._polled.append(_PolledMetrics(endpoint, replica, first_s))
        self.endpoints[:] = [self._known[address] for address in ready]
        for peer in self._peers:
            peer.joined(self.endpoints)
        self._polled = [polled for polled in self._polled if self._is_known(polled.endpoint)]

    def _is_known(self, endpoint: Endpoint) -> bool:
        return self._known.get(endpoint.address) is endpoint

    def _scrape_at(self, scraped: "_ScrapedMetrics", at_s: float) -> None:
        scraped.next_s = at_s
        self._timeline.at(at_s, partial(self._scrape, scraped, at_s))

    def _scrape(self, scraped: "_ScrapedMetrics", at_s: float) -> None:
        """Reads the server's metrics, unless another time was set meanwhile. They arrive after the delay of the
        scenario."""
        endpoint, replica, schedule = scraped.endpoint, scraped.replica, scraped.schedule
        if scraped.next_s != at_s or not self._is_known(endpoint):
            return
        self.scrapes.append(at_s)
        schedule.started(at_s)
        if replica.listening:
            metrics = self._metrics(endpoint, replica, at_s)
            self._timeline.after(self._scenario.scrapes.delay_s, partial(self._read, scraped, metrics))
            return
        if endpoint.unreachable_since_s is None:
            endpoint.unreachable_since_s = at_s
        self._scrape_at(scraped, schedule.failed(at_s))

    def _read(self, scraped: "_ScrapedMetrics", metrics: ServerMetrics) -> None:
        """The metrics have arrived."""
        endpoint, scrapes = scraped.endpoint, self._scenario.scrapes
        before = endpoint.metrics
        self._tracker.scraped(endpoint, metrics)
        endpoint.unreachable_since_s = None
        self._scrape_at(scraped, scraped.schedule.read(before, scrapes.page_s, self._timeline.now_s))

    def _hasten(self, endpoint: Endpoint) -> None:
        """Scrapes an endpoint early that has outrun its newest scrape."""
        scraped = self._scraped.get(endpoint)
        next_s = scraped.schedule.hasten(self._timeline.now_s) if scraped is not None else None
        if scraped is not None and next_s is not None:
            self._scrape_at(scraped, next_s)

    def _poll(self, every_s: float) -> None:
        """Computes the newest metrics that have arrived. Scrapes between two decisions have no effect and are
        skipped."""
        known_s = self._timeline.now_s - self._scenario.scrapes.delay_s
        for polled in self._polled:
            scraped_s = None
            while polled.next_s <= known_s:
                scraped_s = polled.next_s
                self.scrapes.append(scraped_s)
                polled.next_s += every_s * self._rng.uniform(1 - JITTER, 1 + JITTER)
            if scraped_s is not None and polled.replica.listening:
                polled.endpoint.metrics = self._metrics(polled.endpoint, polled.replica, scraped_s)

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
            progress=state.counters if self._uses_counters else None,
            generation_tokens=state.generated if self._uses_counters else None,
            steps=state.steps if self._uses_counters else None,
        )


@dataclass(slots=True)
class _ScrapedMetrics:
    """A server whose metrics are read as often as the picker's schedule decides."""

    endpoint: Endpoint
    replica: Replica
    schedule: ScrapeSchedule
    next_s: float = 0.0
    """Time of the next scrape, once the metrics of the present one have arrived."""


@dataclass(slots=True)
class _PolledMetrics:
    """A server whose metrics are read at an interval, for a scheduler that uses only the newest ones."""

    endpoint: Endpoint
    replica: Replica
    next_s: float
    """Time of the next scrape."""
