"""An instance: a few servers, and a few single requests with known arrivals. A schedule assigns requests to servers.

The servers share nothing, so a schedule is evaluated server by server, with the simulator's engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from vllm_mock.engine.messages import EngineConfig
from vllm_mock.engine.step_time import StepTime

from simulator.engine.fleet import Replica
from simulator.engine.sequence import EngineRequest, Finished, FirstToken
from simulator.engine.timeline import Timeline
from simulator.workload.generator import Turn, sessions
from simulator.workload.scenario import Generated, Replicas, Scenario

HISTORY_S = 0.0
"""Nothing reads the metrics of an instance's servers."""

NETWORK_DELAYS = 2
"""One-way delays in the latency of a request beside the one to the server: from the server to the picker, and to the
client, as in `simulator.experiment.simulation`."""


@dataclass(frozen=True, slots=True)
class Latency:
    """A request as the client sees it."""

    ttft_s: float
    e2e_s: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request, and when the client sends it."""

    at_s: float
    turn: Turn


class Instance:
    """The servers and requests of a scenario and a seed. It remembers what it has evaluated."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        """Raises ValueError if the scenario has sessions of several requests, or disturbances."""
        workload = scenario.workload
        if not isinstance(workload, Generated) or workload.turns is not None or scenario.disturbances:
            raise ValueError(f"{scenario.name}: an instance has single requests and no disturbances")
        self.scenario = scenario
        self.seed = seed
        self.servers = [replicas for replicas in scenario.fleet for _ in range(replicas.count)]
        drawn = sessions(workload, scenario.duration_s, Random(f"{seed} load"))
        self.arrivals = [Arrival(session.start_s, turn) for session in drawn for turn in session.turns]
        self._evaluated: dict[tuple[str, int], dict[int, Latency]] = {}
        self._kinds = [server.model_copy(update={"count": 1}).model_dump_json() for server in self.servers]
        """Equal servers have equal kinds."""

    def config(self, server: int) -> tuple[EngineConfig, StepTime]:
        """The settings of a server, and its step times with its slowdown."""
        replica = self._replica(self.servers[server], Timeline())
        return replica.config, replica.engine.step_time.scaled(replica.engine.slowdown)

    def latencies(self, schedule: Sequence[int]) -> list[Latency]:
        """The latency of each of the first requests, if `schedule` names their servers and no others arrive."""
        by_number: dict[int, Latency] = {}
        for server in range(len(self.servers)):
            assigned = 0
            for number, assigned_server in enumerate(schedule):
                assigned |= (assigned_server == server) << number
            by_number |= self._of_server(server, assigned)
        return [by_number[number] for number in range(len(schedule))]

    def _of_server(self, server: int, assigned: int) -> dict[int, Latency]:
        """The latencies of the requests whose bits are set in `assigned`."""
        key = self._kinds[server], assigned
        if key not in self._evaluated:
            numbers = [number for number in range(len(self.arrivals)) if assigned >> number & 1]
            self._evaluated[key] = self._run(server, numbers)
        return self._evaluated[key]

    def _run(self, server: int, numbers: Sequence[int]) -> dict[int, Latency]:
        timeline = Timeline()
        replica = self._replica(self.servers[server], timeline)
        network_s = self.scenario.network_s
        first_s: dict[int, float] = {}
        end_s: dict[int, float] = {}

        def listen(event: FirstToken | Finished | None) -> None:
            match event:
                case FirstToken(number=number, at_s=at_s):
                    first_s[number] = at_s
                case Finished(number=number, at_s=at_s):
                    end_s[number] = at_s
                case None:
                    pass

        for number in numbers:
            arrival = self.arrivals[number]
            turn = arrival.turn
            request = EngineRequest(number, turn.content, turn.prompt_tokens, turn.output_tokens, turn.lora)
            timeline.at(arrival.at_s + network_s, partial(replica.submit, request, listen))
        timeline.run()
        return {
            number: Latency(
                first_s[number] + NETWORK_DELAYS * network_s - self.arrivals[number].at_s,
                end_s[number] + NETWORK_DELAYS * network_s - self.arrivals[number].at_s,
            )
            for number in numbers
        }

    def _replica(self, like: Replicas, timeline: Timeline) -> Replica:
        return Replica("", like, self.scenario.max_loras, HISTORY_S, timeline)
