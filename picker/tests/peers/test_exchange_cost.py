"""What the exchange costs, as a share of a whole pick: HTTP/2, protobuf, the body, the decision; all but the socket."""

import random
import statistics
import time

import pytest
from pick_stream import PickStream, pool_director
from picker.commands import garbage_collector
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.peers.peer_state import PeerState
from picker.peers.publisher import Publisher
from picker.requestcontrol.director import BLOCK_TOKENS

MOST_REPORTED = 0.15
"""Of the pick without the socket, to report a request."""

MOST_COUNTED = 0.2
"""To count one request of a peer."""


class View:
    """The endpoints and the index of the peer that reads."""

    def __init__(self) -> None:
        self._endpoints: dict[str, Endpoint] = {}
        self._index = PrefixIndex(BLOCK_TOKENS)

    def endpoint(self, address: str, server: str) -> Endpoint:
        return self._endpoints.setdefault(address, Endpoint(address, server))

    def prefixes(self, pool: str) -> PrefixIndex:
        return self._index


@pytest.mark.bench
def test_the_exchange_costs_a_small_share_of_a_pick() -> None:
    """Paired: in one run, in turns, in short batches."""
    publisher = Publisher(time.monotonic, "a")
    publisher.active = True
    streams = {"plain": PickStream(pool_director()), "reported": PickStream(pool_director(observers=[publisher]))}
    for stream in streams.values():
        for _ in range(2000):
            stream.pick()
    publisher.flush()
    state = PeerState(InFlightTracker(), View())
    state.apply(publisher.hello(), 0.0)
    garbage_collector.tune()
    seconds: dict[str, list[float]] = {"plain": [], "reported": [], "counted": []}
    for _ in range(200):
        for name in random.sample(list(streams), len(streams)):
            began_s = time.process_time()
            for _ in range(64):
                streams[name].pick()
            batch = publisher.flush() if name == "reported" else b""
            seconds[name].append((time.process_time() - began_s) / 64)
            if batch:
                began_s = time.process_time()
                state.apply(batch, time.monotonic())
                seconds["counted"].append((time.process_time() - began_s) / 64)
    plain = seconds["plain"]
    reported = statistics.median(mine / its for mine, its in zip(seconds["reported"], plain, strict=True)) - 1
    counted = statistics.median(mine / its for mine, its in zip(seconds["counted"], plain, strict=True))
    print(f"plain {statistics.median(plain) * 1e6:.1f} us; reported +{reported:.1%}, counted +{counted:.1%}")
    assert reported < MOST_REPORTED
    assert counted < MOST_COUNTED
