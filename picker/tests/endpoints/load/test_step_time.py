"""The step time that is learned from a server's counters."""

from random import Random
from statistics import median

import pytest
from fleet import endpoint
from hypothesis import given
from hypothesis import strategies as st
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.load.step_time import (
    MAX_SHAPE_FACTOR,
    MAX_WINDOW_S,
    PRIOR,
    WINDOW_S,
    StepTime,
    StepTimeEstimate,
    StepWork,
)
from picker.scheduling.terms.step_time import PoolStepTime

B200 = StepTime(20e-3, 0.05e-3, 0.02e-3, 1.5e-8)
"""Of another shape than the prior: a step costs as much as a thousand prompt tokens."""


def work(time: StepTime, rng: Random, *, slowdown: float = 1.0, noise: float = 0.0) -> StepWork:
    """What a server with this step time does in a few seconds of a random load."""
    steps, sequences = rng.randrange(20, 100), rng.randrange(1, 60)
    prompt_tokens, context = rng.choice([0, 0, 500, 4000]), sequences * rng.randrange(200, 3000)
    row = (steps, steps * sequences, prompt_tokens, steps * context)
    seconds = sum(value * coefficient for value, coefficient in zip(row, time, strict=True))
    return StepWork(slowdown * seconds * (1.0 + rng.uniform(-noise, noise)), *map(float, row))


def observed(
    time: StepTime, seed: int = 1, *, windows: int = 60, slowdown: float = 1.0, noise: float = 0.05
) -> Endpoint:
    rng, server = Random(seed), endpoint(seed)
    for _ in range(windows):
        server.step_time.scraped(work(time, rng, slowdown=slowdown, noise=noise), 0.0)
    return server


def learned(*servers: Endpoint) -> StepTime:
    pool = PoolStepTime()
    for now_s in range(3):
        pool.observe(servers, 2.0 * now_s)
    return pool.time


def errors(found: StepTime, true: StepTime) -> list[float]:
    """Relative errors of the time of other loads."""
    rng = Random(100)
    done = [work(true, rng) for _ in range(100)]
    rows = [(did.steps, did.decode_tokens, did.prompt_tokens, did.context_tokens) for did in done]
    predicted = [sum(value * part for value, part in zip(row, found, strict=True)) for row in rows]
    return [abs(seconds / did.seconds - 1.0) for seconds, did in zip(predicted, done, strict=True)]


def ratios(found: StepTime, true: StepTime) -> list[float]:
    return [value / expected for value, expected in zip(found, true, strict=True)]


def test_without_observations_the_step_time_is_the_prior() -> None:
    assert learned(endpoint(1)) == PRIOR


@pytest.mark.parametrize("time", [PRIOR, B200])
def test_the_time_of_other_loads_is_predicted(time: StepTime) -> None:
    """Of coefficients that matter little in a load, only the sum is known."""
    assert median(errors(learned(observed(time)), time)) < 0.03
    assert max(errors(learned(observed(time)), time)) < 0.15


def test_a_pool_has_the_shape_of_its_servers_at_their_mean_speed() -> None:
    """A server of half the speed and one of twice the speed have the mean speed of the others."""
    servers = [observed(B200, seed, slowdown=slowdown) for seed, slowdown in enumerate((0.5, 1.0, 1.0, 2.0), 1)]
    assert median(errors(learned(*servers), B200)) < 0.08


def test_a_few_windows_that_are_wrong_by_a_factor_change_little() -> None:
    """The prompts of another window are counted in them."""
    server, rng = observed(PRIOR, windows=100), Random(2)
    for _ in range(100):
        right = work(PRIOR, rng, noise=0.05)
        wrong = StepWork(right.seconds, right.steps, right.decode_tokens, 30_000.0, right.context_tokens)
        server.step_time.scraped(wrong if rng.random() < 0.05 else right, 0.0)
    assert median(errors(learned(server), PRIOR)) < 0.05


def test_another_speed_replaces_the_former_one_within_two_minutes() -> None:
    server, rng, seconds = observed(PRIOR), Random(3), 0.0
    while seconds < 120.0:
        did = work(PRIOR, rng, slowdown=2.0, noise=0.05)
        seconds += did.seconds
        server.step_time.scraped(did, 0.0)
    assert learned(server).base_s == pytest.approx(2.0 * PRIOR.base_s, rel=0.1)


def test_a_window_ends_when_as_many_prompts_are_in_prefill_as_at_its_start() -> None:
    """A long prompt counts at its admission, and takes several seconds from then on."""
    estimate = StepTimeEstimate()
    did = StepWork(WINDOW_S, 10.0, 10.0, 0.0, 1000.0)
    estimate.scraped(StepWork(WINDOW_S, 10.0, 10.0, 8000.0, 1000.0), 8000.0)
    estimate.scraped(did, 8000.0)
    assert estimate.moments.weight == 0.0
    estimate.scraped(did, 0.0)
    assert estimate.moments.weight == pytest.approx(3 * WINDOW_S)


@pytest.mark.parametrize("idle", [True, False])
def test_a_time_with_idle_gaps_or_without_an_end_is_not_learned_from(idle: bool) -> None:
    estimate = StepTimeEstimate()
    half = StepWork(WINDOW_S / 2, 10.0, 10.0, 0.0, 1000.0)
    estimate.scraped(half, 0.0)
    estimate.scraped(None if idle else StepWork(MAX_WINDOW_S, 10.0, 10.0, 0.0, 1000.0), 0.0)
    estimate.scraped(half, 0.0)
    assert estimate.moments.weight == 0.0


positive = st.floats(0.0, 1e15)


@given(st.lists(st.tuples(st.floats(1e-9, 1e9), positive, positive, positive, positive), max_size=20), positive)
def test_any_counters_leave_a_bounded_shape(claims: list[tuple[float, ...]], pending: float) -> None:
    """A server's counters are its own claim, and change its pool's coefficients within bounds."""
    server, honest = endpoint(1), observed(PRIOR, 2)
    for claim in claims:
        server.step_time.scraped(StepWork(*claim), pending)
    factors = ratios(learned(server, honest), PRIOR)
    assert min(factors) > 0.0
    assert max(factors) / min(factors) <= MAX_SHAPE_FACTOR**2 * 1.001
