"""Virtual time: `advance_to` gives what single steps give."""

import heapq
from dataclasses import dataclass

import engines
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm_mock.engine.core import Engine
from vllm_mock.engine.messages import EngineConfig, EngineRequest, NewTokens


@dataclass(frozen=True)
class Arrival:
    at_ms: int
    shared_tokens: int
    own_tokens: int
    output_tokens: int
    stops: bool
    lora: int


arrivals = st.builds(
    Arrival,
    at_ms=st.integers(0, 2000),
    shared_tokens=st.sampled_from([0, 5, 16, 40, 100]),
    own_tokens=st.integers(1, 100),
    output_tokens=st.integers(1, 120),
    stops=st.booleans(),
    lora=st.integers(0, 3),
)
configs = st.builds(
    EngineConfig,
    num_gpu_blocks=st.sampled_from([24, 40, 80, 1000]),
    max_num_seqs=st.sampled_from([2, 5, 30]),
    max_num_batched_tokens=st.sampled_from([4, 32, 512]),
    max_loras=st.sampled_from([1, 2]),
    enable_lora=st.just(True),
    enable_prefix_caching=st.booleans(),
    max_model_len=st.just(330),
)


def requests(workload: list[Arrival]) -> list[tuple[float, EngineRequest]]:
    """The requests of `workload` with their times of arrival."""
    arriving: list[tuple[float, EngineRequest]] = []
    for number, arrival in enumerate(workload):
        own = range(1000 * number, 1000 * number + arrival.own_tokens)
        request = EngineRequest(
            request_id=str(number),
            prompt=(*range(arrival.shared_tokens), *own),
            max_tokens=arrival.output_tokens,
            seed=number,
            stop_token_ids=frozenset({1_000_000 * (number + 1) + 10}) if arrival.stops else frozenset(),
            lora=f"lora-{arrival.lora}" if arrival.lora else None,
        )
        arriving.append((arrival.at_ms / 1000, request))
    return arriving


def submit_all(engine: Engine, workload: list[Arrival]) -> None:
    for at_s, request in requests(workload):
        engine.submit(request, at_s)


def step_by_step(engine: Engine, workload: list[Arrival]) -> list[tuple[float, NewTokens]]:
    """All tokens, with the engine driven by `add`, `begin_step` and `end_step`."""
    queue = [(at_s, number, request) for number, (at_s, request) in enumerate(requests(workload))]
    heapq.heapify(queue)
    tokens: list[tuple[float, NewTokens]] = []
    now_s = 0.0

    def add_arrived() -> None:
        while queue and queue[0][0] <= now_s:
            at_s, _, request = heapq.heappop(queue)
            engine.add(request, at_s)

    while queue or engine.live_requests:
        add_arrived()
        duration_s = engine.begin_step(now_s)
        if duration_s is None:
            now_s = queue[0][0]
            continue
        now_s += duration_s
        add_arrived()
        tokens += [(now_s, new_tokens) for new_tokens in engine.end_step(now_s)]
    return tokens


@settings(max_examples=100, deadline=None)
@given(configs, st.lists(arrivals, min_size=1, max_size=15))
def test_virtual_time_gives_the_tokens_times_and_metrics_of_single_steps(
    config: EngineConfig, workload: list[Arrival]
) -> None:
    """Equal to the last bit, with small caches, budgets and batches."""
    virtual, stepping = engines.engine(config), engines.engine(config)
    submit_all(virtual, workload)
    assert virtual.advance_to(3600.0) == step_by_step(stepping, workload)
    assert virtual.metrics.engine_text() == stepping.metrics.engine_text()
    assert virtual.scheduler.pool.free == stepping.scheduler.pool.free == config.num_gpu_blocks - 1


@settings(max_examples=50, deadline=None)
@given(configs, st.lists(arrivals, min_size=1, max_size=10), st.lists(st.floats(0.001, 0.5), max_size=30))
def test_many_short_advances_equal_one_long_advance(
    config: EngineConfig, workload: list[Arrival], pieces: list[float]
) -> None:
    at_once, in_pieces = engines.engine(config), engines.engine(config)
    submit_all(at_once, workload)
    submit_all(in_pieces, workload)
    tokens: list[tuple[float, NewTokens]] = []
    now_s = 0.0
    for piece in pieces:
        now_s += piece
        tokens += in_pieces.advance_to(now_s)
    tokens += in_pieces.advance_to(3600.0)
    assert tokens == at_once.advance_to(3600.0)


@settings(max_examples=50, deadline=None)
@given(configs, st.lists(arrivals, min_size=1, max_size=10))
def test_first_and_last_tokens_only_are_a_selection_of_all_tokens(
    config: EngineConfig, workload: list[Arrival]
) -> None:
    """`every_token=False` omits tokens and changes nothing else."""
    all_tokens, ends = engines.engine(config), engines.engine(config)
    submit_all(all_tokens, workload)
    submit_all(ends, workload)
    seen: set[str] = set()
    expected: list[tuple[float, NewTokens]] = []
    for at_s, tokens in all_tokens.advance_to(3600.0):
        if tokens.request_id not in seen or tokens.finish_reason is not None:
            expected.append((at_s, tokens))
        seen.add(tokens.request_id)
    assert ends.advance_to(3600.0, every_token=False) == expected


def test_an_engine_without_metrics_generates_the_same_tokens() -> None:
    config = EngineConfig(num_gpu_blocks=40)
    with_metrics = engines.engine(config)
    without_metrics = Engine(config, engines.Text(), engines.STEP_TIME)
    for engine in (with_metrics, without_metrics):
        for number in range(6):
            engine.submit(engines.request(f"r{number}", 100, 80), number / 10)
    assert without_metrics.advance_to(600.0) == with_metrics.advance_to(600.0)
    assert without_metrics.live_requests == 0


def test_an_arrival_in_the_past_is_rejected() -> None:
    engine = engines.engine(EngineConfig())
    engine.advance_to(1.0)
    with pytest.raises(ValueError, match=r"^arrival at 0.5 s is before the current time, 1.0 s$"):
        engine.submit(engines.request("a", 20, 2), 0.5)
