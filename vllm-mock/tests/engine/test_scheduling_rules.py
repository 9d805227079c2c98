"""What must hold of any step, whatever the workload, and the rules that recordings do not reach."""

import engines
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm_mock.engine.messages import EngineConfig, EngineRequest, FinishReason
from vllm_mock.engine.scheduler import Scheduler
from vllm_mock.engine.sequence_state import Live

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
"""Any request of 44 tokens fits alone into the smallest of the caches."""
works = st.tuples(st.integers(1, 30), st.integers(1, 40), st.sampled_from([None, "a", "b", "c"]), st.integers(0, 3))


def made(number: int, prompt: int, tokens: int, lora: str | None, content: int) -> EngineRequest:
    return EngineRequest(
        request_id=str(number),
        prompt=tuple(range(100 * content, 100 * content + prompt)),
        max_tokens=tokens,
        seed=number,
        lora=lora,
    )


@settings(max_examples=150, deadline=None)
@given(configs, st.lists(works, min_size=1, max_size=20), st.lists(st.integers(0, 3), max_size=60))
def test_no_step_breaks_a_limit_and_no_request_is_lost(
    config: EngineConfig, workload: list[tuple[int, int, str | None, int]], gaps: list[int]
) -> None:
    """Budget, batch, adapters and blocks are kept to; every request ends with exactly its tokens."""
    scheduler = Scheduler(config, engines.Text())
    coming = [made(number, *work) for number, work in enumerate(workload)]
    lives: dict[str, Live] = {}
    ended: list[str] = []
    pauses = iter(gaps)
    for _ in range(20_000):
        for _ in range(next(pauses, 1)):
            if coming:
                request = coming.pop(0)
                lives[request.request_id] = scheduler.add(request)
        step = scheduler.schedule()
        if step is None:
            if not coming:
                break
            continue
        assert sum(step.counts) + step.budget == config.max_num_batched_tokens
        assert all(count > 0 for count in step.counts)
        assert len(scheduler.running) <= config.max_num_seqs
        assert len({live.lora for live in scheduler.running if live.lora}) <= config.max_loras
        assert not (step.preempted and (step.new or step.resumed))
        holding = {block for live in scheduler.running for block in live.blocks}
        assert len(holding) == scheduler.pool.used
        for live in scheduler.running:
            assert len(live.blocks) == -(-live.computed // config.block_size)
        for live in scheduler.waiting:
            assert not live.blocks
            assert live.computed == 0
        given_tokens, _ = scheduler.complete()
        ended += [live.request_id for live in given_tokens if live.finish_reason is not None]
    assert sorted(ended) == sorted(lives)
    assert all(live.generated == live.limit for live in lives.values())
    assert scheduler.pool.used == 0


def test_blocks_of_a_running_prefill_can_be_hit_in_the_step_that_fills_them() -> None:
    config = EngineConfig(num_gpu_blocks=40, block_size=4, max_num_batched_tokens=10)
    scheduler = Scheduler(config, engines.Text())
    scheduler.add(made(0, 16, 1, None, 0))
    scheduler.schedule()
    scheduler.complete()
    late = scheduler.add(made(1, 16, 1, None, 0))
    scheduler.schedule()
    assert late.cached_tokens == 12


def test_requests_passed_over_for_their_adapter_come_before_a_preempted_one() -> None:
    """vLLM keeps them in a queue of their own, which it looks at first."""
    config = EngineConfig(num_gpu_blocks=9, block_size=4, max_num_seqs=4, max_loras=1)
    scheduler = Scheduler(config, engines.Text())
    first, second = scheduler.add(made(0, 14, 20, "a", 0)), scheduler.add(made(1, 14, 8, "a", 1))
    deferred = scheduler.add(made(2, 4, 2, "b", 2))
    while not second.preemptions:
        assert scheduler.schedule() is not None
        scheduler.complete()
    assert scheduler.running == [first]
    assert scheduler.waiting == [deferred, second]


def test_a_request_that_was_removed_during_its_step_gets_no_token() -> None:
    scheduler = Scheduler(EngineConfig(num_gpu_blocks=40), engines.Text())
    scheduler.add(made(0, 5, 3, None, 0))
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


def test_without_chunked_prefill_a_prompt_over_the_budget_that_is_left_waits() -> None:
    config = EngineConfig(num_gpu_blocks=80, max_num_batched_tokens=20, enable_chunked_prefill=False)
    scheduler = Scheduler(config, engines.Text())
    scheduler.add(made(0, 12, 1, None, 0))
    scheduler.add(made(1, 12, 1, None, 1))
    step = scheduler.schedule()
    assert step is not None
    assert step.counts == [12]
