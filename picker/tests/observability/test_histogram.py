"""Histograms that add many values at a time."""

from hypothesis import given
from hypothesis import strategies as st
from picker.observability.histogram import Histogram

BOUNDS = (0.0, 0.5, 1.0, 10.0)
values = st.lists(st.floats(min_value=-1.0, max_value=20.0) | st.sampled_from(BOUNDS), max_size=40)


@given(st.lists(values, max_size=4))
def test_each_bucket_counts_the_values_up_to_its_bound(batches: list[list[float]]) -> None:
    """The bound is included. The batches do not matter."""
    histogram = Histogram(BOUNDS)
    for batch in batches:
        histogram.add(batch)
    together = [value for batch in batches for value in batch]
    naive = [(f"{bound:g}", float(sum(value <= bound for value in together))) for bound in BOUNDS]
    assert histogram.cumulative() == [*naive, ("+Inf", len(together))]


@given(values, values)
def test_a_total_equals_one_histogram_of_all_values(some: list[float], others: list[float]) -> None:
    left, right, both = Histogram(BOUNDS), Histogram(BOUNDS), Histogram(BOUNDS)
    left.add(some)
    right.add(others)
    both.add(some + others)
    total = Histogram.total([left, right])
    assert total.cumulative() == both.cumulative()
    assert abs(total.sum - both.sum) < 1e-9
