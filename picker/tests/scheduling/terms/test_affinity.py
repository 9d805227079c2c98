"""Several pickers of one pool that do not communicate."""

from random import Random

import pytest
from fleet import endpoint, request
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.requestcontrol.in_flight_request import InFlightRequest, schedule
from picker.resources.inference import Criticality, RoutingStrategy
from picker.scheduling.request import InferenceRequest
from picker.scheduling.scheduler import Scheduler

OURS = pytest.mark.parametrize("strategy", [RoutingStrategy.DEFAULT, RoutingStrategy.PREFIX_CACHE])


class Picker:
    """One of several pickers, with its own endpoints for the same four addresses and `others` foreign requests on
    each."""

    def __init__(self, strategy: RoutingStrategy, seed: int, others: int = 5) -> None:
        self.fleet = [endpoint(number, running=others) for number in range(4)]
        self._prefixes = PrefixIndex(64)
        self._scheduler = Scheduler(strategy, self._prefixes, Random(seed))
        self._tracker = InFlightTracker()
        self._now_s = 0.0

    def send(self, what: InferenceRequest) -> str:
        """The address that was picked. The request ends at once."""
        self._now_s += 0.1
        sent = schedule(what, self.fleet, self._scheduler, self._prefixes, self._tracker, self._now_s)
        assert isinstance(sent, InFlightRequest)
        sent.end(self._now_s)
        return sent.ranking.endpoints[0].address


def turn(of: int, number: int, tokens: int = 2000) -> InferenceRequest:
    """A turn of a conversation, 10 blocks longer than the one before."""
    blocks = tuple(range(1000 * of, 1000 * of + 10 * number))
    return InferenceRequest("m", Criticality.STANDARD, tokens, 100, blocks, of, number > 1)


def one_off(number: int) -> InferenceRequest:
    return request(tokens=2000, blocks=tuple(range(1000 * number, 1000 * number + 30)))


def warm(picker: Picker) -> None:
    """Let it observe foreign requests."""
    for number in range(200):
        picker.send(turn(500_000 + number // 4, number % 4 + 1))


@OURS
def test_turns_of_a_conversation_go_to_one_server_from_all_pickers(strategy: RoutingStrategy) -> None:
    """The first turn as well, if most prompts are later turns."""
    left, right = Picker(strategy, 1), Picker(strategy, 2)
    warm(left)
    warm(right)
    for of in range(1, 50):
        places = {(left, right)[number % 2].send(turn(of, number)) for number in range(1, 6)}
        assert len(places) == 1


@OURS
def test_a_common_system_prompt_goes_to_one_server_from_all_pickers(strategy: RoutingStrategy) -> None:
    """If most prompts have known first blocks, new first blocks are likely known to other pickers."""
    left, right = Picker(strategy, 1), Picker(strategy, 2)
    for picker in (left, right):
        for number in range(300):
            picker.send(one_off(number % 10))
    for number in range(10, 30):
        assert left.send(one_off(number)) == right.send(one_off(number))


@OURS
def test_prompts_without_repeats_have_no_preferred_endpoint(strategy: RoutingStrategy) -> None:
    """They go to the least loaded endpoint, which is drawn at random here."""
    left, right = Picker(strategy, 1), Picker(strategy, 2)
    for number in range(400):
        left.send(one_off(1000 + number))
        right.send(one_off(2000 + number))
    same = sum(left.send(one_off(number)) == right.send(one_off(number)) for number in range(400, 600))
    assert same < 100


@OURS
def test_a_busy_preferred_endpoint_is_avoided(strategy: RoutingStrategy) -> None:
    """As soon as to compute the prompt elsewhere takes less time than the wait there."""
    picker = Picker(strategy, 1)
    warm(picker)
    preferred_endpoint = picker.send(turn(7, 3))
    [busy] = [item for item in picker.fleet if item.address == preferred_endpoint]
    busy.in_flight.prefill_tokens += 100_000
    assert picker.send(turn(7, 4)) != preferred_endpoint


@OURS
def test_a_single_picker_has_no_preferred_endpoints(strategy: RoutingStrategy) -> None:
    """It has sent all prompts itself: later turns follow the first one, wherever that went."""
    picker, other = Picker(strategy, 1, others=0), Picker(strategy, 2, others=0)
    firsts = [(picker.send(turn(of, 1)), other.send(turn(of, 1))) for of in range(1, 60)]
    assert sum(left == right for left, right in firsts) < 40
    for of, (left, _) in enumerate(firsts, 1):
        assert picker.send(turn(of, 2)) == left
