"""Of which requests the picker sees how they are answered."""

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


def share(answers: ResponseHeaderSampler, pool: str = "a") -> float:
    """Of 4,000 answers, those wanted."""
    return sum(answers.wanted(pool) for _ in range(4000)) / 4000


def test_of_a_pool_without_trouble_one_answer_in_eight_is_seen(clock: Clock) -> None:
    assert share(ResponseHeaderSampler(clock, Random(1), every=False)) == pytest.approx(SAMPLED_SHARE, abs=0.02)


def test_all_are_seen_where_that_is_wanted(clock: Clock) -> None:
    assert share(ResponseHeaderSampler(clock, Random(1), every=True)) == 1.0


def test_all_are_seen_where_models_are_renamed(clock: Clock) -> None:
    """There the answer holds a name to put right."""
    answers = ResponseHeaderSampler(clock, Random(1), every=False)
    answers.renaming(frozenset({"a"}))
    assert share(answers, "a") == 1.0
    assert share(answers, "b") < 0.2


def test_after_trouble_all_answers_of_the_pool_are_seen_for_a_while(clock: Clock) -> None:
    """And again after the next."""
    answers = ResponseHeaderSampler(clock, Random(1), every=False)
    answers.sample_all("a")
    clock.now_s += SAMPLE_ALL_AFTER_ERROR_S - 1
    assert share(answers, "a") == 1.0
    assert share(answers, "b") < 0.2
    answers.sample_all("a")
    clock.now_s += SAMPLE_ALL_AFTER_ERROR_S - 1
    assert share(answers, "a") == 1.0
    clock.now_s += 1
    assert share(answers, "a") < 0.2
