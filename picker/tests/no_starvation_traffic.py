"""Traffic for one pool in virtual time."""

from random import Random

import pytest
from fleet import request
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.requestcontrol.in_flight_request import InFlightRequest, schedule
from picker.resources.inference import RoutingStrategy
from picker.scheduling.scheduler import Scheduler

OURS = pytest.mark.parametrize("strategy", [RoutingStrategy.DEFAULT, RoutingStrategy.PREFIX_CACHE])


class Traffic:
    """Requests for one pool, all with the same prompt. A test ends the oldest ones."""

    def __init__(self, strategy: RoutingStrategy, fleet: list[Endpoint], *, blocks: int = 15) -> None:
        """`blocks`: those of the prompt, which are cached where it was sent. 0: each prompt is new."""
        self.fleet = fleet
        self.now_s = 0.0
        self._blocks = blocks
        self._prefixes = PrefixIndex(64)
        self._scheduler = Scheduler(strategy, self._prefixes, Random(1))
        self._tracker = InFlightTracker()
        self._open: list[InFlightRequest] = []

    def send(self) -> Endpoint:
        """Send one more request. Returns its endpoint."""
        self.now_s += 0.1
        what = request(tokens=1000, blocks=tuple(range(self._blocks)))
        sent = schedule(what, self.fleet, self._scheduler, self._prefixes, self._tracker, self.now_s)
        assert isinstance(sent, InFlightRequest)
        self._open.append(sent)
        return sent.endpoint

    def end_all_but(self, left: int) -> None:
        while len(self._open) > left:
            self._open.pop(0).end(self.now_s)
