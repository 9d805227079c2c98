"""Nobody is forgotten: endpoints that can work get work, and one that was slow is tried again."""

from random import Random

import pytest
from fleet import endpoint, request
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.ledger import Ledger
from picker.endpoints.prefixes import PrefixIndex
from picker.resources.inference import RoutingStrategy
from picker.scheduling.dispatch import Dispatched, dispatch
from picker.scheduling.scheduler import Scheduler

OURS = pytest.mark.parametrize("strategy", [RoutingStrategy.DEFAULT, RoutingStrategy.PREFIX_CACHE])

FLEET_S_PER_TOKEN = 0.0002


class Traffic:
    """Requests for one pool, all with the same prompt, each of which ends when more are in flight than are wanted."""

    def __init__(self, strategy: RoutingStrategy, fleet: list[Endpoint]) -> None:
        self.fleet = fleet
        self.now_s = 0.0
        self._prefixes = PrefixIndex(64)
        self._scheduler = Scheduler(strategy, self._prefixes, Random(1))
        self._ledger = Ledger()
        self._open: list[Dispatched] = []

    def send(self) -> Endpoint:
        """One more request, and where it went."""
        self.now_s += 0.1
        what = request(tokens=1000, blocks=tuple(range(15)))
        sent = dispatch(what, self.fleet, self._scheduler, self._prefixes, self._ledger, self.now_s)
        assert isinstance(sent, Dispatched)
        self._open.append(sent)
        return sent.ticket.endpoint

    def end_all_but(self, left: int) -> None:
        while len(self._open) > left:
            self._open.pop(0).end(self.now_s)


def learn(where: Endpoint, times_as_slow: float) -> None:
    for _ in range(200):
        where.pace.learn(2000, 2000 * FLEET_S_PER_TOKEN * times_as_slow, 0.0)


@OURS
def test_a_slow_endpoint_that_has_recovered_gets_its_share_again(strategy: RoutingStrategy) -> None:
    """The longer it is not heard of the better it looks, so it is tried again, and each good answer helps."""
    fleet = [endpoint(number) for number in range(4)]
    for each in fleet:
        learn(each, 10.0 if each is fleet[0] else 1.0)
    traffic = Traffic(strategy, fleet)
    picks: list[bool] = []
    for _ in range(4000):
        chosen = traffic.send()
        picks.append(chosen is fleet[0])
        chosen.pace.learn(1000, 1000 * FLEET_S_PER_TOKEN, traffic.now_s)
        traffic.end_all_but(60)
    assert sum(picks[:200]) < 30
    assert sum(picks[-400:]) > 80
