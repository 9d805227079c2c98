"""AsyncEngine, on looptime's virtual clock."""

import asyncio

import engines
import pytest
from vllm_mock.engine.driver import AsyncEngine
from vllm_mock.engine.messages import EngineConfig, FinishReason, NewTokens

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]
STEP = engines.StepTime(0.025, 0, 0, 0)


def make_engine(profile: str = "v1-current") -> AsyncEngine:
    engine = engines.engine(EngineConfig(num_gpu_blocks=100), STEP, profile)
    return AsyncEngine(engine, monotonic_s=asyncio.get_running_loop().time)


@pytest.fixture
async def engine() -> AsyncEngine:
    return make_engine()


async def test_tokens_arrive_at_the_modelled_times(engine: AsyncEngine) -> None:
    engine.start()
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    times: list[float] = []
    done = asyncio.Event()

    def on_tokens(tokens: NewTokens) -> None:
        times.append(loop.time() - started_s)
        if tokens.finish_reason is not None:
            done.set()

    engine.submit(engines.request("a", 20, 40), on_tokens)
    await done.wait()
    await engine.stop()
    assert times == pytest.approx([0.025 * step for step in range(1, 41)], abs=2e-3)


async def test_a_time_scale_of_ten_runs_ten_times_faster(engine: AsyncEngine) -> None:
    engine.time_scale = 10.0
    engine.start()
    done = asyncio.Event()
    started_s = asyncio.get_running_loop().time()
    engine.submit(engines.request("a", 20, 40), lambda tokens: done.set() if tokens.finish_reason else None)
    await done.wait()
    assert asyncio.get_running_loop().time() - started_s == pytest.approx(0.1, abs=5e-3)
    assert engine.engine.metrics.values.histograms["e2e_s"].total == pytest.approx(1.0, abs=0.03)
    await engine.stop()


async def test_a_resumed_engine_does_not_make_up_for_the_stall(engine: AsyncEngine) -> None:
    engine.start()
    loop = asyncio.get_running_loop()
    times: list[float] = []
    engine.submit(engines.request("a", 20, 12), lambda _: times.append(loop.time()))
    await asyncio.sleep(0.06)
    engine.stall()
    await asyncio.sleep(10)
    stalled = len(times)
    assert stalled <= 3
    resumed_s = loop.time()
    engine.resume()
    await asyncio.sleep(1)
    assert len(times) == 12
    assert times[stalled] >= resumed_s + 0.02
    await engine.stop()


async def test_no_observed_time_is_negative_when_steps_are_late(engine: AsyncEngine) -> None:
    """The process is paused for three seconds, and a request arrives meanwhile."""
    engine.start()
    done = asyncio.Event()
    engine.submit(engines.request("a", 20, 5), lambda _: None)
    await asyncio.sleep(0.03)
    paused_until_s = asyncio.get_running_loop().time() + 3
    now = engine.now_s
    engine.now_s = lambda: max(now(), paused_until_s)  # type: ignore[method-assign]
    engine.submit(engines.request("b", 20, 2), lambda tokens: done.set() if tokens.finish_reason else None)
    await done.wait()
    await engine.stop()
    for name in ("ttft_s", "queue_s", "prefill_s", "inter_token_s", "e2e_s"):
        assert engine.engine.metrics.values.histograms[name].total >= 0, name


async def test_an_abort_frees_the_blocks_of_its_request(engine: AsyncEngine) -> None:
    engine.start()
    engine.submit(engines.request("a", 20, 1000), lambda _: None)
    await asyncio.sleep(0.2)
    engine.abort("a")
    engine.abort("a")
    await asyncio.sleep(0.05)
    assert engine.engine.live_requests == 0
    assert engine.engine.metrics.values.kv_cache_usage == 0
    await engine.stop()


async def test_a_request_finished_at_a_stop_string_counts_as_stopped(engine: AsyncEngine) -> None:
    engine.start()
    engine.submit(engines.request("a", 20, 1000), lambda _: None)
    await asyncio.sleep(0.2)
    engine.finish("a", FinishReason.STOP)
    assert engine.engine.metrics.values.success[FinishReason.STOP] == 1
    await engine.stop()


async def test_v0_rates_of_an_idle_engine_fall_to_zero() -> None:
    engine = make_engine("v0-0.6")
    engine.start()
    engine.submit(engines.request("a", 20, 300), lambda _: None)
    await asyncio.sleep(7)
    assert engine.engine.metrics.values.generation_tokens_per_s > 30
    await asyncio.sleep(30)
    assert engine.engine.metrics.values.generation_tokens_per_s == 0
    await engine.stop()
