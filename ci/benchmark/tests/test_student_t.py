"""Quantiles of Student's t distribution against published values."""

from itertools import pairwise

import pytest
from benchmark.student_t import half_width_95, student_t_95


@pytest.mark.parametrize(
    ("degrees", "published"),
    [(1, 12.706), (4, 2.776), (15, 2.131), (16, 2.120), (19, 2.093), (39, 2.023), (1000, 1.962)],
)
def test_quantiles_equal_the_published_ones(degrees: int, published: float) -> None:
    assert student_t_95(degrees) == pytest.approx(published, abs=0.001)


def test_more_degrees_of_freedom_never_widen_an_interval() -> None:
    assert all(wider > narrower for wider, narrower in pairwise(map(student_t_95, range(1, 200))))


def test_the_interval_of_a_mean_follows_the_textbook() -> None:
    """Three values with standard deviation 1: 4.303 / sqrt(3)."""
    assert half_width_95([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5)
