"""No endpoint starves: a slow one is tried again, and gets its share after it has recovered."""

from fleet import endpoint
from no_starvation_traffic import OURS, Traffic
from picker.endpoints.endpoint import Endpoint
from picker.resources.inference import RoutingStrategy


def learn(where: Endpoint, times_as_slow: float) -> None:
    for _ in range(200):
        where.speed.learn(0.4, 0.4 * times_as_slow, 0.0)


@OURS
def test_a_slow_endpoint_that_has_recovered_gets_its_share_again(strategy: RoutingStrategy) -> None:
    """Its slowness decays without responses, so it is tried again, and each fast response helps."""
    fleet = [endpoint(number) for number in range(4)]
    for item in fleet:
        learn(item, 10.0 if item is fleet[0] else 1.0)
    traffic = Traffic(strategy, fleet)
    picks: list[bool] = []
    for _ in range(4000):
        chosen = traffic.send()
        picks.append(chosen is fleet[0])
        chosen.speed.learn(0.2, 0.2, traffic.now_s)
        traffic.end_all_but(60)
    assert sum(picks[:200]) < 30
    assert sum(picks[-400:]) > 80
