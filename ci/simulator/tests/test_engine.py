"""The simulator's engine takes the steps of the mock's engine: equal work, times, hits, preemptions and metrics."""

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st
from picker.endpoints.load.prefill_tracker import PrefillCounters
from simulator.engine.core import HISTORY_S, Engine
from simulator.engine.sequence import EngineRequest, Finished, FirstToken
from simulator.engine.steps import EngineState
from simulator.workload.content import Content, Piece
from vllm_mock.engine import core as mock_core
from vllm_mock.engine import messages as mock_messages
from vllm_mock.engine.messages import EngineConfig
from vllm_mock.engine.sequence_state import SequenceState
from vllm_mock.engine.speed import CARDS, StepTime
from vllm_mock.metrics.engine_metrics import EngineMetrics

STEP_TIME = StepTime(28.6e-3, 0.157e-3, 0.2013e-3, 1.1037e-6)
LONGEST = 656
"""Tokens of the longest sequence that `sessions` draws."""
SECOND_TURN = 1000
"""Added to the number of a session, it is the number of its second request."""


@dataclass(frozen=True)
class Session:
    """A client that sends one request, and a second one that continues the first if `reply_tokens` is not 0."""

    at_ms: int
    prefix: int
    prefix_tokens: int
    own_tokens: int
    output_tokens: int
    lora: int = 0
    reply_tokens: int = 0
    pause_ms: int = 0


sessions = st.builds(
    Session,
    at_ms=st.integers(0, 3000),
    prefix=st.integers(0, 3),
    prefix_tokens=st.sampled_from([0, 5, 16, 40, 100, 200]),
    own_tokens=st.just(0) | st.integers(1, 150),
    output_tokens=st.integers(1, 120),
    lora=st.integers(0, 3),
    reply_tokens=st.sampled_from([0, 0, 1, 17, 66]),
    pause_ms=st.integers(1, 900),
).filter(lambda session: session.prefix_tokens + session.own_tokens > 0)
speeds = st.lists(st.tuples(st.integers(0, 6000), st.sampled_from([0.5, 1.0, 1.7])), max_size=4)
"""Changes of the engine's speed: milliseconds, and the factor on its step times from then on."""


@st.composite
def configs(draw: st.DrawFn) -> EngineConfig:
    """Limits small enough to apply: of blocks (some workloads preempt), sequences, tokens and adapters."""
    block_size, sequences = draw(st.sampled_from([8, 16])), draw(st.sampled_from([1, 2, 5, 30]))
    return EngineConfig(
        block_size=block_size,
        num_gpu_blocks=1 + LONGEST // block_size + draw(st.sampled_from([0, 1, 2, 8, 30, 150, 1000])),
        max_num_seqs=sequences,
        max_num_batched_tokens=sequences + draw(st.sampled_from([1, 7, 32, 512])),
        max_loras=draw(st.sampled_from([1, 2, 8])),
        enable_lora=True,
        enable_prefix_caching=draw(st.booleans()),
        max_model_len=LONGEST,
    )


@dataclass(frozen=True)
class Step:
    """One step of an engine. Requests are given by their numbers."""

    begins_s: float
    ends_s: float
    decoding: int
    context_tokens: int
    prefill_tokens: int
    chunks: list[tuple[int, int]]
    """Requests that do not decode yet, and how many tokens each computes."""
    admitted: list[tuple[int, int]]
    """Requests admitted for the first time, and how many tokens of each are in the prefix cache."""
    first_tokens: set[int]
    finished: dict[int, int]
    """Requests that end, and how often each was preempted."""
    state: EngineState
    """What the metrics show when the step has ended."""


class Inputs:
    """Requests and changes of speed, in order of time.

    No two are at the same time: the simulator's engine schedules a request alone if it arrives when the engine is idle.
    """

    def __init__(self, workload: Sequence[Session], changes: Sequence[tuple[int, float]]) -> None:
        self._workload = workload
        self._numbers = itertools.count()
        self._heap: list[tuple[float, int, EngineRequest | float]] = []
        for number, session in enumerate(workload):
            self._add(session.at_ms / 1000 + (number + 1) * 1.00037e-5, request_of(number, session))
        for number, (at_ms, slowdown) in enumerate(changes):
            self._add(at_ms / 1000 + (number + 1) * 1.00073e-6, slowdown)

    @property
    def next_s(self) -> float:
        return self._heap[0][0] if self._heap else inf

    def pop(self) -> tuple[float, EngineRequest | float]:
        """Remove the next input: its time, and the request or the factor on step times."""
        at_s, _, change = heapq.heappop(self._heap)
        return at_s, change

    def finished(self, number: int, now_s: float) -> None:
        """Add the request that follows the finished one, if any."""
        if number < SECOND_TURN and self._workload[number].reply_tokens:
            session = self._workload[number]
            at_s = now_s + session.pause_ms / 1000 + (number + 1) * 1.00047e-5
            self._add(at_s, request_of(number, session, turn=1))

    def _add(self, at_s: float, change: EngineRequest | float) -> None:
        heapq.heappush(self._heap, (at_s, next(self._numbers), change))


def request_of(number: int, session: Session, turn: int = 0) -> EngineRequest:
    """The first or second request of a session. Equal prefixes with different adapters are different pieces."""
    prefix = Piece(10 * session.lora + session.prefix, session.prefix_tokens)
    prompt = session.prefix_tokens + session.own_tokens + turn * (session.output_tokens + session.reply_tokens)
    content = Content((prefix, Piece(100 + number, 1 << 20)))
    lora = f"lora-{session.lora}" if session.lora else None
    return EngineRequest(number + turn * SECOND_TURN, content, prompt, session.output_tokens, lora)


def of_mock(request: EngineRequest) -> mock_messages.EngineRequest:
    """The request with tokens in place of its content."""
    prefix, own = request.content.pieces
    shared = [prefix.number << 20 | position for position in range(prefix.end_tokens)]
    rest = [own.number << 20 | position for position in range(prefix.end_tokens, request.prompt_tokens)]
    return mock_messages.EngineRequest(
        request_id=str(request.number),
        prompt=(*shared, *rest),
        max_tokens=request.output_tokens,
        lora=request.lora,
        seed=own.number,
    )


class SessionText:
    """A sampler that continues the content of a session."""

    def token(self, request: mock_messages.EngineRequest, position: int) -> int:
        return request.seed << 20 | (len(request.prompt) + position)


def steps_of_mock(
    config: EngineConfig, step_time: StepTime, workload: Sequence[Session], changes: Sequence[tuple[int, float]] = ()
) -> list[Step]:
    """The steps of the mock's engine, taken one at a time."""
    clock = itertools.count(1.0)
    engine = mock_core.Engine(
        config, SessionText(), step_time, EngineMetrics(config, "m", unix_s=lambda: float(next(clock)))
    )
    inputs, steps, now_s = Inputs(workload, changes), list[Step](), 0.0
    decoding: set[SequenceState] = set()
    while True:
        while inputs.next_s <= now_s:
            at_s, change = inputs.pop()
            if isinstance(change, EngineRequest):
                engine.add(of_mock(change), at_s)
            else:
                engine.step_time = step_time.scaled(change)
        duration_s = engine.begin_step(now_s)
        if duration_s is None and inputs.next_s == inf:
            return steps
        if duration_s is None:
            now_s = inputs.next_s
            continue
        schedule = engine.current_step
        assert schedule is not None
        decoding -= set(schedule.preempted)
        computing = list(zip(schedule.scheduled, schedule.counts, strict=True))
        chunks = [(int(live.request_id), count) for live, count in computing if live not in decoding]
        begins_s, now_s = now_s, now_s + duration_s
        generated = {tokens.request_id for tokens in engine.end_step(now_s)}
        computed = [live for live in schedule.scheduled if live.request_id in generated]
        ended = [live for live in computed if live.finish_reason is not None]
        decoding = decoding.union(computed).difference(ended)
        for live in ended:
            inputs.finished(int(live.request_id), now_s)
        steps.append(
            Step(
                begins_s,
                now_s,
                schedule.decoding,
                schedule.context_tokens,
                schedule.prefill_tokens,
                chunks,
                [(int(live.request_id), live.cached_tokens) for live in schedule.new],
                {int(live.request_id) for live in computed if live.generated == 1},
                {int(live.request_id): live.preemptions for live in ended},
                state_of_mock(engine),
            )
        )


def state_of_mock(engine: mock_core.Engine) -> EngineState:
    values = engine.metrics.values
    newest = max(values.adapters, key=values.adapters.__getitem__, default="")
    ttft = values.histograms["ttft_s"]
    return EngineState(
        values.running,
        values.waiting_capacity + values.waiting_deferred,
        values.kv_cache_usage,
        frozenset(filter(None, newest.split(","))),
        PrefillCounters(ttft.count, ttft.total, values.prompt_tokens, values.prefix_queries, values.prefix_hits),
        values.histograms["step_tokens"].count,
        values.generation_tokens,
    )


def steps_of_simulator(
    config: EngineConfig,
    step_time: StepTime,
    workload: Sequence[Session],
    changes: Sequence[tuple[int, float]] = (),
    scrapes: "Scrapes | None" = None,
) -> list[Step]:
    """The steps of the simulator's engine, one by one. `scrapes` reads its metrics meanwhile."""
    engine, inputs, steps = Engine(config, step_time), Inputs(workload, changes), list[Step]()
    while engine.next_s is not None or inputs.next_s < inf:
        next_s = min(inputs.next_s, inf if engine.next_s is None else engine.next_s)
        if scrapes is not None:
            scrapes.until(next_s, engine)
        if inputs.next_s <= next_s:
            at_s, change = inputs.pop()
            if isinstance(change, EngineRequest):
                engine.submit(change, at_s)
            else:
                engine.slowdown = change
                engine.interrupt(at_s)
        else:
            ended = steps_of_batch(engine)
            for number in ended[-1].finished:
                inputs.finished(number, ended[-1].ends_s)
            steps += ended
    return steps


def steps_of_batch(engine: Engine) -> list[Step]:
    """The steps of the current batch, which ends."""
    batch, now_s = engine.current_batch, engine.next_s
    assert batch is not None
    assert now_s is not None
    first = batch.first
    ends_s = [*(batch.begun_s + batch.duration_s(number) for number in range(1, batch.steps)), now_s]
    states = [engine.state(end_s + 1e-9) for end_s in ends_s[:-1]]
    chunks = [(sequence.request.number, count) for sequence, count in first.chunks]
    admitted = [(sequence.request.number, sequence.cached_tokens or 0) for sequence in first.admitted]
    events = engine.advance()
    states.append(engine.state(now_s))
    last = len(ends_s) - 1
    return [
        Step(
            begins_s,
            end_s,
            first.decoding,
            first.context_tokens + number * first.decoding,
            first.prefill_tokens,
            chunks if number == 0 else [],
            admitted if number == 0 else [],
            {event.number for event in events if isinstance(event, FirstToken) and number == last},
            {event.number: event.preemptions for event in events if isinstance(event, Finished) and number == last},
            states[number],
        )
        for number, (begins_s, end_s) in enumerate(itertools.pairwise([batch.begun_s, *ends_s]))
    ]


class Scrapes:
    """Reads an engine's metrics at irregular times, and reads those of the history again each time."""

    def __init__(self, pauses_ms: Sequence[int]) -> None:
        self._times = itertools.accumulate(pause * 0.00173 for pause in itertools.cycle(pauses_ms))
        self._next_s = next(self._times)
        self.seen: list[tuple[float, EngineState]] = []

    def until(self, until_s: float, engine: Engine) -> None:
        while self._next_s < until_s < inf:
            now_s, self._next_s = self._next_s, next(self._times)
            self.seen.append((now_s, engine.state(now_s)))
            for at_s, state in reversed(self.seen):
                if at_s < now_s - HISTORY_S:
                    break
                assert engine.state(at_s) == state


def assert_equal(ours: Sequence[Step], theirs: Sequence[Step]) -> None:
    """Equal steps, except for the rounding of times."""
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert abs(our.begins_s - their.begins_s) < 1e-6
        assert abs(our.ends_s - their.ends_s) < 1e-6
        assert our.decoding == their.decoding
        assert our.context_tokens == their.context_tokens
        assert our.prefill_tokens == their.prefill_tokens
        assert our.chunks == their.chunks
        assert our.admitted == their.admitted
        assert our.first_tokens == their.first_tokens
        assert our.finished == their.finished
        assert_equal_states(our.state, their.state)


def assert_equal_states(ours: EngineState, theirs: EngineState) -> None:
    assert (ours.running, ours.waiting, ours.loras) == (theirs.running, theirs.waiting, theirs.loras)
    assert abs(ours.kv_cache_usage - theirs.kv_cache_usage) < 1e-9
    left, right = ours.counters, theirs.counters
    assert (left.first_tokens, left.prompt_tokens) == (right.first_tokens, right.prompt_tokens)
    assert (left.prefix_queries, left.prefix_hits) == (right.prefix_queries, right.prefix_hits)
    assert abs(left.first_token_s - right.first_token_s) < 1e-4


@settings(max_examples=300, deadline=None)
@given(configs(), st.lists(sessions, min_size=1, max_size=40), speeds)
def test_any_workload_takes_equal_steps(
    config: EngineConfig, workload: list[Session], changes: list[tuple[int, float]]
) -> None:
    """Work, times, first tokens, ends, preemptions, cache hits and metrics are equal in every step."""
    ours = steps_of_simulator(config, STEP_TIME, workload, changes)
    assert_equal(ours, steps_of_mock(config, STEP_TIME, workload, changes))


def test_a_loaded_a10_takes_equal_steps() -> None:
    """Ninety requests of the tutorial's sizes: the cache is full, requests wait, and some are preempted."""
    card = CARDS["a10"]
    config = EngineConfig(num_gpu_blocks=card.num_gpu_blocks, max_model_len=4096)
    workload = [Session(37 * i, i % 4, 200, 1000 + 13 * i, 150 + 7 * (i % 50)) for i in range(90)]
    ours = steps_of_simulator(config, card.step_time, workload)
    assert_equal(ours, steps_of_mock(config, card.step_time, workload))
    assert any(preemptions for step in ours for preemptions in step.finished.values())


@settings(max_examples=60, deadline=None)
@given(
    configs(),
    st.lists(sessions, min_size=1, max_size=20),
    speeds,
    st.lists(st.integers(1, 200), min_size=1, max_size=10),
)
def test_a_scrape_shows_the_state_at_the_end_of_the_last_step(
    config: EngineConfig, workload: list[Session], changes: list[tuple[int, float]], pauses_ms: list[int]
) -> None:
    """At any time, and again at any later time within the history."""
    scrapes = Scrapes(pauses_ms)
    steps_of_simulator(config, STEP_TIME, workload, changes, scrapes)
    ended = iter(steps_of_mock(config, STEP_TIME, workload, changes))
    step, following = None, next(ended, None)
    for at_s, state in scrapes.seen:
        while following is not None and following.ends_s <= at_s:
            step, following = following, next(ended, None)
        if step is not None:
            assert_equal_states(state, step.state)
