"""Invariants of every step, and the scheduling rules that the recordings do not cover."""

import engines
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm_mock.engine.messages import EngineConfig, EngineRequest, FinishReason
from vllm_mock.engine.scheduler import Scheduler
from vllm_mock.engine.sequence_state import SequenceState

configs = st.builds(
    EngineConfig,
    num_gpu_blocks=st.sampled_from([12, 24, 80]),
    block_size=st.sampled_from([4, 16]),
    max_num_seqs=st.integers(1, 8),
    max_num_batched_tokens=st.sampled_from([1, 3, 16, 64]),
    max_loras=st.integers(1, 2),
    enable_lora=st.just(True),
    enable_prefix_caching=st.booleans(),
    max_model_len=st.just(44),
)
"""A request of 44 tokens, the longest, fits alone into the smallest cache."""
jobs = st.tuples(st.integers(1, 30), st.integers(1, 40), st.sampled_from([None, "a", "b", "c"]), st.integers(0, 3))
"""Prompt tokens, output tokens, LoRA adapter, and which of four prompts the prompt is the beginning of."""
Job = tuple[int, int, str | None, int]


def make_request(number: int, prompt: int, tokens: int, lora: str | None, content: int) -> EngineRequest:
    return EngineRequest(
        request_id=str(number),
        prompt=tuple(range(100 * content, 100 * content + prompt)),
        max_tokens=tokens,
        seed=number,
        lora=lora,
    )


@settings(max_examples=150, deadline=None)
@given(
    configs,
    st.lists(jobs, min_size=1, max_size=20),
    st.lists(st.integers(0, 3), max_size=60),
    st.dictionaries(st.integers(0, 60), st.integers(0, 19), max_size=8),
)
def test_no_step_exceeds_a_limit_and_no_request_is_lost(
    config: EngineConfig, workload: list[Job], arrivals: list[int], aborts: dict[int, int]
) -> None:
    """Token budget, batch, adapters and blocks stay within their limits. Each request ends with all its tokens or is
    aborted. `arrivals` holds how many requests arrive before each step, `aborts` the request aborted during a step."""
    scheduler = Scheduler(config, engines.Text())
    coming = [make_request(number, *job) for number, job in enumerate(workload)]
    sequences: dict[str, SequenceState] = {}
    ended: set[str] = set()
    aborted: set[str] = set()
    arriving = iter(arrivals)
    for number in range(20_000):
        for _ in range(next(arriving, 1)):
            if coming:
                request = coming.pop(0)
                sequences[request.request_id] = scheduler.add(request)
        step = scheduler.schedule()
        if step is None:
            if not coming:
                break
            continue
        assert sum(step.counts) + step.budget == config.max_num_batched_tokens
        assert all(count > 0 for count in step.counts)
        assert not (step.preempted and (step.new or step.resumed))
        assert_within_limits(scheduler)
        if number in aborts and scheduler.remove(str(aborts[number])) is not None:
            aborted.add(str(aborts[number]))
            assert_within_limits(scheduler)
        computed, _ = scheduler.complete()
        assert not aborted.intersection(sequence.request_id for sequence in computed)
        ended.update(sequence.request_id for sequence in computed if sequence.finish_reason is not None)
    assert ended | aborted == set(sequences)
    assert not ended & aborted
    assert all(sequences[request_id].generated == sequences[request_id].limit for request_id in ended)
    assert scheduler.pool.used == 0


def assert_within_limits(scheduler: Scheduler) -> None:
    """Running requests hold all used blocks, exactly as many as their tokens need. Waiting requests hold none."""
    config = scheduler.config
    assert len(scheduler.running) <= config.max_num_seqs
    assert len({sequence.lora for sequence in scheduler.running if sequence.lora}) <= config.max_loras
    held = {block for sequence in scheduler.running for block in sequence.blocks}
    assert len(held) == scheduler.pool.used
    for sequence in scheduler.running:
        assert len(sequence.blocks) == -(-sequence.computed // config.block_size)
    for sequence in scheduler.waiting:
        assert not sequence.blocks
        assert sequence.computed == 0


def test_a_new_request_hits_blocks_filled_in_the_same_step() -> None:
    config = EngineConfig(num_gpu_blocks=40, block_size=4, max_num_batched_tokens=10)
    scheduler = Scheduler(config, engines.Text())
    scheduler.add(make_request(0, 16, 1, None, 0))
    scheduler.schedule()
    scheduler.complete()
    late = scheduler.add(make_request(1, 16, 1, None, 0))
    scheduler.schedule()
    assert late.cached_tokens == 12


def test_requests_passed_over_for_their_adapter_precede_a_preempted_one() -> None:
    """vLLM has a separate queue for them and admits from it first."""
    config = EngineConfig(num_gpu_blocks=9, block_size=4, max_num_seqs=4, max_loras=1)
    scheduler = Scheduler(config, engines.Text())
    first, second = scheduler.add(make_request(0, 14, 20, "a", 0)), scheduler.add(make_request(1, 14, 8, "a", 1))
    deferred = scheduler.add(make_request(2, 4, 2, "b", 2))
    while not second.preemptions:
        assert scheduler.schedule() is not None
        scheduler.complete()
    assert scheduler.running == [first]
    assert scheduler.waiting == [deferred, second]


def test_a_request_removed_during_its_step_gets_no_token() -> None:
    scheduler = Scheduler(EngineConfig(num_gpu_blocks=40), engines.Text())
    scheduler.add(make_request(0, 5, 3, None, 0))
    scheduler.schedule()
    scheduler.remove("0")
    assert scheduler.complete() == ([], 1)
    assert scheduler.schedule() is None


def test_a_stop_token_counts_only_after_min_tokens() -> None:
    scheduler = Scheduler(EngineConfig(num_gpu_blocks=40), engines.Text())
    stops = frozenset({1_000_000 + position for position in range(9)})
    live = scheduler.add(
        EngineRequest(request_id="r", prompt=(1, 2), max_tokens=9, min_tokens=4, stop_token_ids=stops, seed=0)
    )
    while live.finish_reason is None:
        scheduler.schedule()
        scheduler.complete()
    assert (live.generated, live.finish_reason) == (4, FinishReason.STOP)


def test_without_chunked_prefill_a_prompt_over_the_remaining_budget_waits() -> None:
    config = EngineConfig(num_gpu_blocks=80, max_num_batched_tokens=20, enable_chunked_prefill=False)
    scheduler = Scheduler(config, engines.Text())
    scheduler.add(make_request(0, 12, 1, None, 0))
    scheduler.add(make_request(1, 12, 1, None, 1))
    step = scheduler.schedule()
    assert step is not None
    assert step.counts == [12]
