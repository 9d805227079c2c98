"""One run of a scenario with a scheduler and a seed."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from random import Random

from picker.rejection import Rejection
from picker.requestcontrol.in_flight_request import InFlightRequest

from simulator.engine.fleet import Fleet
from simulator.engine.sequence import EngineRequest, Finished, FirstToken
from simulator.engine.timeline import Timeline
from simulator.experiment.picker_replica import Picker
from simulator.experiment.record import Outcome, Record
from simulator.schedulers.perfect_information import GroundTruth
from simulator.schedulers.registry import SchedulerSpec
from simulator.workload.generator import Session, Turn, sessions
from simulator.workload.scenario import Scenario, Trace
from simulator.workload.traces import trace_sessions

BACK_OFF_S = 1.0
"""A client whose request was shed waits this long before its next request. Judgement."""

KV_SAMPLE_S = 1.0
"""Interval of the samples of KV cache usage. Judgement: usage changes by some percent in this time."""


class Simulation:
    """A run. `run` may be called once."""

    def __init__(self, scenario: Scenario, spec: SchedulerSpec, seed: int, traces: Path) -> None:
        """Raises TraceError if the scenario's trace cannot be read from the folder `traces`."""
        self.records: list[Record] = []
        self.kv_spreads: list[float] = []
        """Samples of the difference between the highest and the lowest KV cache usage of the fleet."""
        self._scenario = scenario
        self._timeline = timeline = Timeline()
        self._rng = Random(f"{seed} picks")
        self._number = 0
        self._open = 0
        self._fleet = Fleet(scenario, timeline)
        ground_truth = GroundTruth(self._fleet)
        self.pickers = [
            Picker(scenario, spec, self._fleet, ground_truth, timeline, Random(f"{seed} picker {number}"))
            for number in range(scenario.pickers)
        ]
        if scenario.exchange_s is not None:
            for picker in self.pickers:
                picker.report_to([other for other in self.pickers if other is not picker], scenario.exchange_s)
        workload, rng = scenario.workload, Random(f"{seed} load")
        arriving: Iterable[Session]
        if isinstance(workload, Trace):
            arriving = trace_sessions(workload, traces, scenario.duration_s)
        else:
            arriving = sessions(workload, scenario.duration_s, rng)
        for session in arriving:
            self._open += 1
            timeline.at(session.start_s, partial(self._next_turn, session, 0.0))
        timeline.at(scenario.warmup_s, self._sample_kv)

    def run(self) -> None:
        """Runs until every client has its last response."""
        if self._open:
            self._timeline.run()

    def _next_turn(self, session: Session, pause_s: float) -> None:
        now_s = self._timeline.now_s
        turn = next(session.turns, None) if now_s < self._scenario.duration_s else None
        if turn is None or now_s + turn.gap_s + pause_s > self._scenario.duration_s:
            self._open -= 1
            if not self._open:
                self._timeline.stop()
            return
        self._timeline.after(turn.gap_s + pause_s, partial(self._send, session, turn))

    def _send(self, session: Session, turn: Turn) -> None:
        now_s = self._timeline.now_s
        record = Record(now_s, turn.criticality, turn.prompt_tokens, turn.output_tokens)
        self.records.append(record)
        pickers = self.pickers
        takeover_s = self._scenario.takeover_s
        if len(pickers) == 1:
            picker = pickers[0]
        elif takeover_s is not None:
            picker = pickers[now_s >= takeover_s]
        else:
            picker = self._rng.choice(pickers)
        picked = picker.pick(turn)
        if isinstance(picked, Rejection):
            record.outcome, record.end_s = Outcome.SHED, now_s
            self._next_turn(session, BACK_OFF_S)
            return
        slowness = picked.endpoint.speed.slowness
        if slowness is not None and picked.prompt.predicted_s:
            record.predicted_ttft_s = slowness * picked.prompt.predicted_s
        _Attempt(self, session, turn, record, picker, picked).send()

    def _sample_kv(self) -> None:
        now_s = self._timeline.now_s
        usages = [replica.engine.state(now_s).kv_cache_usage for replica in self._fleet.ready]
        if usages and now_s < self._scenario.duration_s:
            self.kv_spreads.append(max(usages) - min(usages))
            self._timeline.after(KV_SAMPLE_S, self._sample_kv)

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def finished(self, session: Session) -> None:
        self._next_turn(session, 0.0)

    def after_network(self, call: Callable[[], None]) -> None:
        self._timeline.after(self._scenario.network_s, call)

    @property
    def now_s(self) -> float:
        return self._timeline.now_s

    @property
    def scrapes_per_s(self) -> float:
        """Scrapes of all pickers after the warm-up, per second and server."""
        since_s, until_s = self._scenario.warmup_s, self._scenario.duration_s
        counted = sum(since_s <= at_s < until_s for picker in self.pickers for at_s in picker.scrapes)
        return counted / (until_s - since_s) / len(self._fleet.slots)

    @property
    def fleet(self) -> Fleet:
        return self._fleet

    @property
    def scenario(self) -> Scenario:
        return self._scenario


class _Attempt:
    """A request in flight. It tries the picker's endpoints in order, as Envoy does: the next one if a connection is
    refused, or is lost before the response has started."""

    def __init__(
        self,
        simulation: Simulation,
        session: Session,
        turn: Turn,
        record: Record,
        picker: Picker,
        in_flight: InFlightRequest,
    ) -> None:
        self._simulation = simulation
        self._session = session
        self._turn = turn
        self._record = record
        self._picker = picker
        self._in_flight = in_flight
        self._remaining = list(in_flight.ranking.endpoints)

    def send(self) -> None:
        self._simulation.after_network(self._arrive)

    def _arrive(self) -> None:
        if not self._remaining:
            self._end(Outcome.FAILED)
            return
        address = self._remaining.pop(0).address
        replica = self._simulation.fleet.by_address[address]
        if not replica.listening:
            self.send()
            return
        self._record.address = address
        self._picker.served_by(self._in_flight, address)
        turn = self._turn
        request = EngineRequest(
            self._simulation.next_number(), turn.content, turn.prompt_tokens, turn.output_tokens, turn.lora
        )
        replica.submit(request, self._on_event)
        # vLLM sends the response headers of a stream before its first token.
        self._simulation.after_network(partial(self._in_flight.count_response, failed=False))

    def _on_event(self, event: FirstToken | Finished | None) -> None:
        """Handles the first token and the end. None means that the replica died."""
        record = self._record
        match event:
            case FirstToken(at_s=at_s, cached_tokens=cached):
                record.first_s, record.cached_tokens = at_s + 2 * self._simulation.scenario.network_s, cached
            case Finished(preemptions=preemptions):
                record.preemptions = preemptions
                self._simulation.after_network(partial(self._end, Outcome.SERVED))
            case None if record.first_s:
                self._end(Outcome.FAILED)
            case None:
                self.send()

    def _end(self, outcome: Outcome) -> None:
        self._picker.end(self._in_flight)
        self._record.outcome = outcome
        simulation = self._simulation
        self._record.end_s = simulation.now_s + simulation.scenario.network_s
        simulation.finished(self._session)
