"""The engine on asyncio, in looptime's virtual seconds."""

import asyncio

import engines
import pytest
from vllm_mock.engine.driver import AsyncEngine
from vllm_mock.engine.messages import EngineConfig, FinishReason, NewTokens

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]
STEP = engines.StepTime(0.025, 0, 0, 0)


def made(profile: str = "v1-current") -> AsyncEngine:
    engine = engines.engine(EngineConfig(num_gpu_blocks=100), STEP, profile)
    return AsyncEngine(engine, monotonic_s=asyncio.get_running_loop().time)


@pytest.fixture
async def engine() -> AsyncEngine:
    return made()


async def test_tokens_come_at_the_modelled_times(engine: AsyncEngine) -> None:
    engine.start()
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    times: list[float] = []
    done = asyncio.Event()

    def take(tokens: NewTokens) -> None:
        times.append(loop.time() - begun_s)
        if tokens.finish_reason is not None:
            done.set()

    engine.submit(engines.request("a", 20, 40), take)
    await done.wait()
    await engine.stop()
    assert times == pytest.approx([0.025 * step for step in range(1, 41)], abs=2e-3)


async def test_a_time_scale_makes_all_of_it_faster(engine: AsyncEngine) -> None:
    engine.time_scale = 10.0
    engine.start()
    done = asyncio.Event()
    begun_s = asyncio.get_running_loop().time()
    engine.submit(engines.request("a", 20, 40), lambda tokens: done.set() if tokens.finish_reason else None)
    await done.wait()
    assert asyncio.get_running_loop().time() - begun_s == pytest.approx(0.1, abs=5e-3)
    assert engine.engine.metrics.values.histograms["e2e_s"].total == pytest.approx(1.0, abs=0.03)
    await engine.stop()


async def test_a_stalled_engine_gives_nothing_and_does_not_rush_afterwards(engine: AsyncEngine) -> None:
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


async def test_no_time_that_is_counted_is_negative_when_steps_are_late(engine: AsyncEngine) -> None:
    """The process was held up for three seconds; a request came meanwhile."""
    engine.start()
    done = asyncio.Event()
    engine.submit(engines.request("a", 20, 5), lambda _: None)
    await asyncio.sleep(0.03)
    held_up_s = asyncio.get_running_loop().time() + 3
    now = engine.now_s
    engine.now_s = lambda: max(now(), held_up_s)  # type: ignore[method-assign]
    engine.submit(engines.request("b", 20, 2), lambda tokens: done.set() if tokens.finish_reason else None)
    await done.wait()
    await engine.stop()
    for name in ("ttft_s", "queue_s", "prefill_s", "inter_token_s", "e2e_s"):
        assert engine.engine.metrics.values.histograms[name].total >= 0, name


async def test_an_abort_frees_the_place_of_its_request(engine: AsyncEngine) -> None:
    engine.start()
    engine.submit(engines.request("a", 20, 1000), lambda _: None)
    await asyncio.sleep(0.2)
    engine.abort("a")
    engine.abort("a")
    await asyncio.sleep(0.05)
    assert engine.engine.live_requests == 0
    assert engine.engine.metrics.values.kv_cache_usage == 0
    await engine.stop()


async def test_a_stop_string_ends_a_request_for_the_engine_too(engine: AsyncEngine) -> None:
    engine.start()
    engine.submit(engines.request("a", 20, 1000), lambda _: None)
    await asyncio.sleep(0.2)
    engine.finish("a", FinishReason.STOP)
    assert engine.engine.metrics.values.success[FinishReason.STOP] == 1
    await engine.stop()


async def test_v0_rates_of_an_idle_engine_fall_to_zero() -> None:
    engine = made("v0-0.6")
    engine.start()
    engine.submit(engines.request("a", 20, 300), lambda _: None)
    await asyncio.sleep(7)
    assert engine.engine.metrics.values.generation_tokens_per_s > 30
    await asyncio.sleep(30)
    assert engine.engine.metrics.values.generation_tokens_per_s == 0
    await engine.stop()
