"""Steps taken at once in virtual time are as if they had been taken one by one."""

import heapq
from dataclasses import dataclass

import engines
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
    made: list[tuple[float, EngineRequest]] = []
    for number, each in enumerate(workload):
        prompt = (*range(each.shared_tokens), *range(1000 * number, 1000 * number + each.own_tokens))
        stop = 1_000_000 * (number + 1) + 10
        made.append(
            (
                each.at_ms / 1000,
                EngineRequest(
                    request_id=str(number),
                    prompt=prompt,
                    max_tokens=each.output_tokens,
                    seed=number,
                    stop_token_ids=frozenset({stop}) if each.stops else frozenset(),
                    lora=f"lora-{each.lora}" if each.lora else None,
                ),
            )
        )
    return made


def one_by_one(engine: Engine, coming: list[tuple[float, EngineRequest]]) -> list[tuple[float, NewTokens]]:
    """What `advance_to` says it does, in its plainest form."""
    queue = [(at_s, number, request) for number, (at_s, request) in enumerate(coming)]
    heapq.heapify(queue)
    tokens: list[tuple[float, NewTokens]] = []
    now_s = 0.0

    def arrive() -> None:
        while queue and queue[0][0] <= now_s:
            at_s, _, request = heapq.heappop(queue)
            engine.add(request, at_s)

    while queue or engine.live_requests:
        arrive()
        duration_s = engine.begin_step(now_s)
        if duration_s is None:
            now_s = queue[0][0]
            continue
        now_s += duration_s
        arrive()
        tokens += [(now_s, each) for each in engine.end_step(now_s)]
    return tokens


@settings(max_examples=150, deadline=None)
@given(configs, st.lists(arrivals, min_size=1, max_size=15))
def test_leaps_give_the_same_tokens_times_and_metrics(config: EngineConfig, workload: list[Arrival]) -> None:
    """To the bit, over small caches, budgets and batches."""
    leaping, stepping = engines.engine(config), engines.engine(config)
    for at_s, request in requests(workload):
        leaping.submit(request, at_s)
    tokens = leaping.advance_to(3600.0)
    assert tokens == one_by_one(stepping, requests(workload))
    assert leaping.metrics.engine_text().splitlines() == without_rounding(stepping, leaping)
    assert leaping.scheduler.pool.free == stepping.scheduler.pool.free == config.num_gpu_blocks - 1


def without_rounding(engine: Engine, other: Engine) -> list[str]:
    """The page, with sums that differ in the last bits (they are added in another order) taken from `other`."""
    ours, theirs = engine.metrics.values.histograms, other.metrics.values.histograms
    for name, histogram in ours.items():
        assert abs(histogram.total - theirs[name].total) <= 1e-9 * max(1.0, histogram.total)
        histogram.total = theirs[name].total
    return engine.metrics.engine_text().splitlines()


@settings(max_examples=50, deadline=None)
@given(configs, st.lists(arrivals, min_size=1, max_size=10), st.lists(st.floats(0.001, 0.5), max_size=30))
def test_how_time_is_cut_makes_no_difference(
    config: EngineConfig, workload: list[Arrival], pieces: list[float]
) -> None:
    """Many short advances are one long one."""
    at_once, in_pieces = engines.engine(config), engines.engine(config)
    for at_s, request in requests(workload):
        at_once.submit(request, at_s)
        in_pieces.submit(request, at_s)
    tokens: list[tuple[float, NewTokens]] = []
    now_s = 0.0
    for piece in pieces:
        now_s += piece
        tokens += in_pieces.advance_to(now_s)
    tokens += in_pieces.advance_to(3600.0)
    assert tokens == at_once.advance_to(3600.0)


@settings(max_examples=50, deadline=None)
@given(configs, st.lists(arrivals, min_size=1, max_size=10))
def test_first_and_last_tokens_alone_are_those_of_all(config: EngineConfig, workload: list[Arrival]) -> None:
    """`every_token=False` leaves out, and changes nothing."""
    all_tokens, ends = engines.engine(config), engines.engine(config)
    for at_s, request in requests(workload):
        all_tokens.submit(request, at_s)
        ends.submit(request, at_s)
    seen: set[str] = set()
    expected: list[tuple[float, NewTokens]] = []
    for at_s, tokens in all_tokens.advance_to(3600.0):
        if tokens.request_id not in seen or tokens.finish_reason is not None:
            expected.append((at_s, tokens))
        seen.add(tokens.request_id)
    assert ends.advance_to(3600.0, every_token=False) == expected


def test_an_engine_without_metrics_makes_the_same_tokens() -> None:
    config = EngineConfig(num_gpu_blocks=40)
    counted = engines.engine(config)
    uncounted = Engine(config, engines.Text(), engines.STEP_TIME)
    for engine in (counted, uncounted):
        for number in range(6):
            engine.submit(engines.request(f"r{number}", 100, 80), number / 10)
    assert uncounted.advance_to(600.0) == counted.advance_to(600.0)
    assert uncounted.live_requests == 0
