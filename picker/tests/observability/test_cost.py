"""The cost of observers as a share of a whole pick without the socket."""

import random
import statistics
import time

import pytest
from pick_stream import PickStream, pool_director
from picker.commands import garbage_collector
from picker.observability.recent_decisions import RecentDecisions
from picker.observability.request_metrics import RequestMetrics

MOST_COUNTED = 0.07
"""Of a pick without the socket, which is two thirds of the cost of a pick. Judgement."""

MOST_KEPT = 0.12
"""The same with recent decisions kept. Judgement."""


@pytest.mark.bench
def test_observers_cost_a_small_share_of_a_pick() -> None:
    """The variants run in turns, in short batches, so that other load affects all of them."""
    streams = {
        "plain": PickStream(pool_director()),
        "counted": PickStream(pool_director(observers=[RequestMetrics()])),
        "kept": PickStream(pool_director(observers=[RequestMetrics(), RecentDecisions(1000)])),
    }
    for stream in streams.values():
        for _ in range(2000):
            stream.pick()
    garbage_collector.tune()
    seconds: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(200):
        for name in random.sample(list(streams), len(streams)):
            began_s = time.process_time()
            for _ in range(64):
                streams[name].pick()
            seconds[name].append((time.process_time() - began_s) / 64)
    plain = seconds["plain"]
    share = {
        name: statistics.median(own / base for own, base in zip(seconds[name], plain, strict=True)) - 1
        for name in ("counted", "kept")
    }
    print(f"plain {statistics.median(plain) * 1e6:.1f} us; counted +{share['counted']:.1%}, kept +{share['kept']:.1%}")
    assert share["counted"] < MOST_COUNTED
    assert share["kept"] < MOST_KEPT
