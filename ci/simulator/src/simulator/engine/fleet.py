"""The model servers: engines that come, slow down and go."""

from collections.abc import Callable
from functools import partial

from vllm_mock.engine.messages import EngineConfig
from vllm_mock.engine.speed import CARDS

from simulator.engine.core import HISTORY_S, Engine
from simulator.engine.sequence import EngineRequest, Finished, FirstToken
from simulator.engine.timeline import Timeline
from simulator.workload.scenario import Die, Disturbance, Join, Replicas, RollingRestart, Scenario, Slow

START_PAUSE_S = 1.0
"""Between two replicas of a rolling restart."""


class Replica:
    """One server at one address, from its start to its end."""

    def __init__(
        self, address: str, card: str, slowdown: float, max_loras: int, history_s: float, timeline: Timeline
    ) -> None:
        """`history_s`: see Engine."""
        self.address = address
        self.card = card
        self.config = EngineConfig(
            num_gpu_blocks=CARDS[card].num_gpu_blocks,
            max_model_len=1 << 20,
            max_loras=max_loras,
            enable_lora=True,
        )
        self.engine = Engine(self.config, CARDS[card].step_time, history_s)
        self.engine.slowdown = slowdown
        self.alive = True
        self.listening = True
        """Whether it takes connections."""
        self._timeline = timeline
        self._listeners: dict[int, Callable[[FirstToken | Finished | None], None]] = {}
        self._woken_s: float | None = None

    def submit(self, request: EngineRequest, listener: Callable[[FirstToken | Finished | None], None]) -> None:
        """`listener` hears of the first token and of the end, or None when the replica dies before."""
        self._listeners[request.number] = listener
        self.engine.submit(request, self._timeline.now_s)
        self._plan()

    def slow_down(self, factor: float) -> None:
        """Times the step time, from the step after the one under way."""
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
        if next_s is not None and next_s != self._woken_s:
            self._woken_s = next_s
            self._timeline.at(next_s, partial(self._wake, next_s))

    def _wake(self, at_s: float) -> None:
        if not self.alive or at_s != self.engine.next_s:
            return
        self._woken_s = None
        for event in self.engine.advance():
            listener = self._listeners[event.number]
            if isinstance(event, Finished):
                del self._listeners[event.number]
            listener(event)
        self._plan()


class Fleet:
    """All replicas, and which of them are endpoints now."""

    def __init__(self, scenario: Scenario, timeline: Timeline) -> None:
        self._scenario = scenario
        self._timeline = timeline
        self._started = 0
        self.slots: list[Replica] = []
        """By number; a replica that is replaced leaves its number to the next."""
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
        # Numbers are asked for when they are known to a picker.
        history_s = HISTORY_S + scenario.scrapes.delay_s
        replica = Replica(address, like.card, like.slowdown, scenario.max_loras, history_s, self._timeline)
        self.by_address[address] = replica
        self.ready.append(replica)
        self._changed()
        return replica

    def _leave(self, replica: Replica) -> None:
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
                self._timeline.after(disturbance.noticed_s, partial(self._leave, replica))
                self._timeline.after(disturbance.down_s, partial(self._replace, number))
            case Join(card=card):
                self.slots.append(self._start(Replicas(card=card, count=1, slowdown=1.0)))
            case RollingRestart():
                self._restart(0, disturbance)

    def _replace(self, number: int) -> None:
        before = self.slots[number]
        self.slots[number] = self._start(Replicas(card=before.card, count=1, slowdown=1.0))

    def _restart(self, number: int, restart: RollingRestart) -> None:
        """Restart replica `number`, and when it is back the next."""
        if number == len(self.slots):
            return
        replica = self.slots[number]
        self._leave(replica)
        self._drained(number, restart, self._timeline.now_s + restart.drain_s)

    def _drained(self, number: int, restart: RollingRestart, deadline_s: float) -> None:
        replica = self.slots[number]
        if not replica.idle and self._timeline.now_s < deadline_s:
            self._timeline.after(0.5, partial(self._drained, number, restart, deadline_s))
            return
        replica.die()
        self._timeline.after(restart.down_s, partial(self._replace, number))
        self._timeline.after(restart.down_s + START_PAUSE_S, partial(self._restart, number + 1, restart))
