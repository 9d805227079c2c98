"""The simulated model servers. They start, change their speed and stop as the scenario says."""

from collections.abc import Callable
from functools import partial

from vllm_mock.engine.messages import EngineConfig
from vllm_mock.engine.speed import CARDS

from simulator.engine.core import HISTORY_S, Engine
from simulator.engine.sequence import EngineRequest, Finished, FirstToken
from simulator.engine.timeline import Timeline
from simulator.workload.scenario import Die, Disturbance, Join, Replicas, RollingRestart, Scenario, Slow

START_PAUSE_S = 1.0
"""Pause between two replicas of a rolling restart. Judgement."""


class Replica:
    """One server at one address, from its start to its stop."""

    def __init__(self, address: str, like: Replicas, max_loras: int, history_s: float, timeline: Timeline) -> None:
        """`history_s` is that of Engine."""
        card = CARDS[like.card]
        self.address = address
        self.like = like
        self.config = EngineConfig(
            num_gpu_blocks=round(card.num_gpu_blocks * like.cache),
            max_num_seqs=card.max_num_seqs,
            max_num_batched_tokens=card.max_num_batched_tokens,
            max_model_len=1 << 20,
            max_loras=max_loras,
            enable_lora=True,
        )
        self.engine = Engine(self.config, card.step_time, history_s)
        self.engine.slowdown = like.slowdown
        self.alive = True
        self.listening = True
        """Whether the server accepts connections."""
        self._timeline = timeline
        self._listeners: dict[int, Callable[[FirstToken | Finished | None], None]] = {}
        self._wake_s: float | None = None

    def submit(self, request: EngineRequest, listener: Callable[[FirstToken | Finished | None], None]) -> None:
        """Submit `request`. `listener` receives its first token and its end, or None when the replica stops."""
        self._listeners[request.number] = listener
        self.engine.submit(request, self._timeline.now_s)
        self._plan()

    def slow_down(self, factor: float) -> None:
        """Multiply the step time by `factor`, from the next step on."""
        self.engine.slowdown *= factor
        self.engine.interrupt(self._timeline.now_s)
        self._plan()

    def die(self) -> None:
        self.alive = self.listening = False
        listeners = list(self._listeners.values())
        self._listeners.clear()
        for listener in listeners:
            listener(None)

    @property
    def idle(self) -> bool:
        return not self._listeners

    def _plan(self) -> None:
        next_s = self.engine.next_s
        if next_s is not None and next_s != self._wake_s:
            self._wake_s = next_s
            self._timeline.at(next_s, partial(self._wake, next_s))

    def _wake(self, at_s: float) -> None:
        if not self.alive or at_s != self.engine.next_s:
            return
        self._wake_s = None
        for event in self.engine.advance():
            listener = self._listeners[event.number]
            if isinstance(event, Finished):
                del self._listeners[event.number]
            listener(event)
        self._plan()


class Fleet:
    """All replicas, and which of them are ready endpoints."""

    def __init__(self, scenario: Scenario, timeline: Timeline) -> None:
        self._scenario = scenario
        self._timeline = timeline
        self._started = 0
        self.slots: list[Replica] = []
        """Replicas by number. A replacement takes the number of its predecessor."""
        self.ready: list[Replica] = []
        self.by_address: dict[str, Replica] = {}
        self.listeners: list[Callable[[], None]] = []
        for replicas in scenario.fleet:
            for _ in range(replicas.count):
                self.slots.append(self._start(replicas))
        for disturbance in scenario.disturbances:
            timeline.at(disturbance.at_s, partial(self._disturb, disturbance))

    @property
    def now_s(self) -> float:
        return self._timeline.now_s

    def _start(self, like: Replicas) -> Replica:
        self._started += 1
        address = f"10.0.{self._started // 256}.{self._started % 256}:8000"
        scenario = self._scenario
        # A picker reads metrics when it receives them, which is `delay_s` after the scrape.
        history_s = HISTORY_S + scenario.scrapes.delay_s
        replica = Replica(address, like, scenario.max_loras, history_s, self._timeline)
        self.by_address[address] = replica
        self.ready.append(replica)
        self._changed()
        return replica

    def _remove(self, replica: Replica) -> None:
        if replica in self.ready:
            self.ready.remove(replica)
            self._changed()

    def _changed(self) -> None:
        for listener in self.listeners:
            listener()

    def _disturb(self, disturbance: Disturbance) -> None:
        match disturbance:
            case Slow(replica=number, factor=factor, until_s=until_s):
                replica = self.slots[number]
                replica.slow_down(factor)
                if until_s is not None:
                    self._timeline.at(until_s, partial(replica.slow_down, 1 / factor))
            case Die(replica=number):
                replica = self.slots[number]
                replica.die()
                self._timeline.after(disturbance.noticed_s, partial(self._remove, replica))
                self._timeline.after(disturbance.down_s, partial(self._replace, number))
            case Join(card=card):
                self.slots.append(self._start(Replicas(card=card, count=1, slowdown=1.0, cache=1.0)))
            case RollingRestart():
                self._restart(0, disturbance)

    def _replace(self, number: int) -> None:
        replaced = self.slots[number]
        self.slots[number] = self._start(replaced.like.model_copy(update={"slowdown": 1.0}))

    def _restart(self, number: int, restart: RollingRestart) -> None:
        """Restart replica `number`, then the following ones."""
        if number == len(self.slots):
            return
        replica = self.slots[number]
        self._remove(replica)
        self._await_drain(number, restart, self._timeline.now_s + restart.drain_s)

    def _await_drain(self, number: int, restart: RollingRestart, deadline_s: float) -> None:
        replica = self.slots[number]
        if not replica.idle and self._timeline.now_s < deadline_s:
            self._timeline.after(0.5, partial(self._await_drain, number, restart, deadline_s))
            return
        replica.die()
        self._timeline.after(restart.down_s, partial(self._replace, number))
        self._timeline.after(restart.down_s + START_PAUSE_S, partial(self._restart, number + 1, restart))
