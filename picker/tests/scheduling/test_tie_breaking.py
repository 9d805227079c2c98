"""The order of the endpoints does not matter, and equal costs are ordered at random."""

from random import Random

import pytest
from fleet import endpoint, request, scheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from picker.resources.inference import RoutingStrategy
from picker.scheduling.request import Ranking

OURS = pytest.mark.parametrize("strategy", [RoutingStrategy.DEFAULT, RoutingStrategy.PREFIX_CACHE])


@OURS
@given(st.lists(st.integers(0, 20_000), min_size=2, max_size=10, unique=True), st.randoms())
@settings(deadline=None)
def test_the_order_of_the_list_does_not_change_the_ranking(
    strategy: RoutingStrategy, tokens: list[int], shuffler: Random
) -> None:
    """If no two costs are equal, from best to worst."""
    fleet = [endpoint(number, tokens=ahead) for number, ahead in enumerate(tokens)]
    shuffled = fleet[:]
    shuffler.shuffle(shuffled)
    rankings = [scheduler(strategy).schedule(request(), listed, 0) for listed in (fleet, shuffled)]
    assert all(isinstance(item, Ranking) for item in rankings)
    first, second = (item.endpoints for item in rankings if isinstance(item, Ranking))
    assert first == second


def test_equal_costs_are_ordered_at_random() -> None:
    """Each of four idle endpoints is first, and second, about equally often."""
    fleet, deciding = [endpoint(number) for number in range(4)], scheduler()
    for place in (0, 1):
        counts = dict.fromkeys(map(id, fleet), 0)
        for _ in range(2000):
            ranking = deciding.schedule(request(), fleet, 0)
            assert isinstance(ranking, Ranking)
            counts[id(ranking.endpoints[place])] += 1
        assert min(counts.values()) > 400
