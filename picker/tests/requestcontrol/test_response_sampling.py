"""The requests whose response headers are sampled."""

from random import Random

import pytest
from picker.requestcontrol.response_sampling import SAMPLE_ALL_AFTER_ERROR_S, SAMPLED_SHARE, ResponseHeaderSampler


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def share(sampler: ResponseHeaderSampler, pool: str = "a") -> float:
    """The sampled share of 4,000 responses."""
    return sum(sampler.should_sample(pool) for _ in range(4000)) / 4000


def test_without_errors_one_response_in_eight_is_sampled(clock: Clock) -> None:
    assert share(ResponseHeaderSampler(clock, Random(1), every=False)) == pytest.approx(SAMPLED_SHARE, abs=0.02)


def test_with_every_all_responses_are_sampled(clock: Clock) -> None:
    assert share(ResponseHeaderSampler(clock, Random(1), every=True)) == 1.0


def test_all_responses_of_renaming_pools_are_sampled(clock: Clock) -> None:
    """The response has a name to restore."""
    sampler = ResponseHeaderSampler(clock, Random(1), every=False)
    sampler.renaming(frozenset({"a"}))
    assert share(sampler, "a") == 1.0
    assert share(sampler, "b") < 0.2


def test_all_responses_of_the_pool_are_sampled_for_some_time_after_an_error(clock: Clock) -> None:
    """A further error extends the time."""
    sampler = ResponseHeaderSampler(clock, Random(1), every=False)
    sampler.sample_all("a")
    clock.now_s += SAMPLE_ALL_AFTER_ERROR_S - 1
    assert share(sampler, "a") == 1.0
    assert share(sampler, "b") < 0.2
    sampler.sample_all("a")
    clock.now_s += SAMPLE_ALL_AFTER_ERROR_S - 1
    assert share(sampler, "a") == 1.0
    clock.now_s += 1
    assert share(sampler, "a") < 0.2
