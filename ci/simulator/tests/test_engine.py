"""The engine in strides gives what the mock's engine gives, token for token and block for block."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator.engine.core import HISTORY_S, Engine
from simulator.engine.sequence import EngineRequest, Finished, FirstToken
from simulator.engine.steps import EngineState
from simulator.workload.content import Content, Piece
from vllm_mock.engine import core as mock_core
from vllm_mock.engine import messages as mock_messages
from vllm_mock.engine.messages import EngineConfig
from vllm_mock.engine.speed import CARDS, StepTime
from vllm_mock.metrics.engine_metrics import EngineMetrics


@dataclass(frozen=True)
class Arrival:
    at_ms: int
    prefix: int
    prefix_tokens: int
    own_tokens: int
    output_tokens: int
    lora: int


@dataclass(frozen=True)
class Outcome:
    first_s: float
    end_s: float
    cached_tokens: int
    preemptions: int


class Fresh:
    """A sampler whose tokens are like no other request's."""

    def token(self, request: mock_messages.EngineRequest, position: int) -> int:
        return 1_000_000 * (int(request.request_id) + 1) + position


arrivals = st.builds(
    Arrival,
    at_ms=st.integers(0, 3000),
    prefix=st.integers(0, 3),
    prefix_tokens=st.sampled_from([0, 5, 16, 40, 100, 200]),
    own_tokens=st.integers(1, 150),
    output_tokens=st.integers(1, 120),
    lora=st.integers(0, 3),
)

configs = st.builds(
    EngineConfig,
    num_gpu_blocks=st.sampled_from([32, 48, 80, 200, 1000]),
    max_num_seqs=st.sampled_from([2, 5, 30]),
    max_num_batched_tokens=st.sampled_from([32, 64, 512]),
    max_loras=st.sampled_from([1, 2, 8]),
    enable_lora=st.just(True),
    max_model_len=st.just(480),
)


def arrives_s(numbered: tuple[int, Arrival]) -> float:
    """No two at the same time: the first would begin alone here, and with the others there."""
    number, arrival = numbered
    return arrival.at_ms / 1000 + number * 1e-5


def request_of(number: int, arrival: Arrival) -> EngineRequest:
    prompt = arrival.prefix_tokens + arrival.own_tokens
    content = Content((Piece(arrival.prefix, arrival.prefix_tokens), Piece(100 + number, 1 << 20)))
    lora = f"lora-{arrival.lora}" if arrival.lora else None
    if lora is not None:
        content = Content((Piece(10 * arrival.lora + arrival.prefix, arrival.prefix_tokens), content.pieces[1]))
    return EngineRequest(number, content, prompt, arrival.output_tokens, lora)


def in_strides(config: EngineConfig, step_time: StepTime, workload: list[Arrival]) -> dict[int, Outcome]:
    engine = Engine(config, step_time)
    first: dict[int, FirstToken] = {}
    outcomes: dict[int, Outcome] = {}
    coming = sorted(enumerate(workload), key=arrives_s)
    while coming or engine.next_s is not None:
        if coming and (engine.next_s is None or arrives_s(coming[0]) <= engine.next_s):
            number, arrival = coming.pop(0)
            engine.submit(request_of(number, arrival), arrives_s((number, arrival)))
            continue
        for event in engine.advance():
            if isinstance(event, FirstToken):
                first[event.number] = event
            else:
                assert isinstance(event, Finished)
                begun = first[event.number]
                outcomes[event.number] = Outcome(begun.at_s, event.at_s, begun.cached_tokens, event.preemptions)
    return outcomes


def mock_engine(config: EngineConfig, step_time: StepTime, workload: list[Arrival]) -> mock_core.Engine:
    """With the whole workload to come."""
    engine = mock_core.Engine(config, Fresh(), step_time, EngineMetrics(config, "m"))
    for number, arrival in enumerate(workload):
        shared = range(10_000 * (arrival.prefix + 1), 10_000 * (arrival.prefix + 1) + arrival.prefix_tokens)
        own = range(-1000 * (number + 1), -1000 * (number + 1) + arrival.own_tokens)
        request = mock_messages.EngineRequest(
            request_id=str(number),
            prompt=(*shared, *own),
            max_tokens=arrival.output_tokens,
            lora=f"lora-{arrival.lora}" if arrival.lora else None,
        )
        engine.submit(request, arrives_s((number, arrival)))
    return engine


def step_by_step(config: EngineConfig, step_time: StepTime, workload: list[Arrival]) -> dict[int, Outcome]:
    engine = mock_engine(config, step_time, workload)
    first: dict[int, tuple[float, int]] = {}
    outcomes: dict[int, Outcome] = {}
    preemptions: dict[str, int] = {}
    now_s = 0.0
    while len(outcomes) < len(workload):
        now_s += 0.01
        for live in [*engine.scheduler.waiting, *engine.scheduler.running]:
            preemptions[live.request.request_id] = live.preemptions
        for at_s, tokens in engine.advance_to(now_s):
            number = int(tokens.request_id)
            first.setdefault(number, (at_s, tokens.cached_tokens))
            if tokens.finish_reason is not None:
                begun_s, cached = first[number]
                outcomes[number] = Outcome(begun_s, at_s, cached, preemptions.get(tokens.request_id, 0))
        assert now_s < 600
    return outcomes


def same(left: dict[int, Outcome], right: dict[int, Outcome]) -> None:
    assert left.keys() == right.keys()
    for number, outcome in left.items():
        other = right[number]
        assert (outcome.cached_tokens, outcome.preemptions) == (other.cached_tokens, other.preemptions), number
        assert outcome.first_s == pytest.approx(other.first_s, abs=1e-6), number
        assert outcome.end_s == pytest.approx(other.end_s, abs=1e-6), number


STEP_TIME = StepTime(28.6e-3, 0.157e-3, 0.2013e-3, 1.1037e-6)


@settings(max_examples=300, deadline=None)
@given(configs, st.lists(arrivals, min_size=1, max_size=40))
def test_any_workload_has_the_same_times_hits_and_preemptions(config: EngineConfig, workload: list[Arrival]) -> None:
    """Over small caches, budgets and batches, so that every rule comes into play."""
    same(in_strides(config, STEP_TIME, workload), step_by_step(config, STEP_TIME, workload))


def test_a_card_under_load_is_the_same() -> None:
    """Two hundred requests of the sizes of the tutorial on an A10: a full cache, queueing and preemptions."""
    card = CARDS["a10"]
    config = EngineConfig(num_gpu_blocks=card.num_gpu_blocks, max_model_len=4096)
    workload = [Arrival(37 * i, i % 4, 200, 1000 + 13 * i, 150 + 7 * (i % 50), 0) for i in range(90)]
    same(in_strides(config, card.step_time, workload), step_by_step(config, card.step_time, workload))


@settings(max_examples=60, deadline=None)
@given(configs, st.lists(arrivals, min_size=1, max_size=30), st.lists(st.integers(1, 200), min_size=1, max_size=10))
def test_a_scrape_shows_what_the_metrics_of_a_server_show(
    config: EngineConfig, workload: list[Arrival], pauses: list[int]
) -> None:
    """Its load as of the end of a step, and its counters, which move when a step has ended: at any moment, and a little
    later of that moment still."""
    engine, mock = Engine(config, STEP_TIME), mock_engine(config, STEP_TIME, workload)
    coming = sorted(enumerate(workload), key=arrives_s)
    now_s = 0.0
    told: list[tuple[float, EngineState]] = []
    for pause in pauses:
        now_s += pause * 0.0173
        while True:
            next_s = engine.next_s
            if coming and arrives_s(coming[0]) <= now_s and (next_s is None or arrives_s(coming[0]) <= next_s):
                number, arrival = coming.pop(0)
                engine.submit(request_of(number, arrival), arrives_s((number, arrival)))
            elif next_s is not None and next_s <= now_s:
                engine.advance()
            else:
                break
        mock.advance_to(now_s)
        shown, values = engine.state(now_s), mock.metrics.values
        assert shown.running == values.running
        assert shown.waiting == values.waiting_capacity + values.waiting_deferred
        assert shown.kv_cache_usage == pytest.approx(values.kv_cache_usage)
        counters = shown.counters
        assert (counters.prefix_queries, counters.prefix_hits) == (values.prefix_queries, values.prefix_hits)
        assert counters.prompt_tokens == values.prompt_tokens
        ttft = values.histograms["ttft_s"]
        assert (counters.first_tokens, counters.first_token_s) == (ttft.count, pytest.approx(ttft.total, abs=1e-4))
        newest = max(values.adapters, key=values.adapters.__getitem__, default="")
        assert shown.loras == frozenset(filter(None, newest.split(",")))
        told.append((now_s, shown))
        for at_s, then in told:
            if at_s >= now_s - HISTORY_S:
                assert engine.state(at_s) == then
