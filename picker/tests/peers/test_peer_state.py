"""Two replicas of the picker count each other's requests."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picker.endpoints.endpoint import InFlight
from picker.peers import peer_state
from picker.peers.deltas import InvalidMessage
from picker.requestcontrol.in_flight_request import InFlightRequest
from replicas import Clock, Link, ReplicaOfPicker

LONG = "a long prompt " * 400


def pair() -> tuple[ReplicaOfPicker, ReplicaOfPicker, Link]:
    clock = Clock()
    speaker, listener = ReplicaOfPicker("a", clock), ReplicaOfPicker("b", clock)
    link = Link(speaker, listener, clock)
    link.connect()
    return speaker, listener, link


def flush(link: Link) -> None:
    link.deliver(link.speaker.publisher.flush())


def place(replica: ReplicaOfPicker, request: InFlightRequest) -> int:
    """The number of the endpoint that serves the request."""
    return next(number for number, each in enumerate(replica.endpoints) if each.address == request.endpoint.address)


def test_a_peers_request_counts_from_its_batch_to_its_end() -> None:
    speaker, listener, link = pair()
    request = speaker.pick(LONG, sequences=2)
    assert listener.counts() == [(0, 0, 0)] * 3
    flush(link)
    assert listener.counts() == speaker.counts()
    there = listener.endpoints[place(speaker, request)]
    assert there.peers_in_flight.requests == there.in_flight.requests == 2
    assert listener.tracker.total == InFlight()
    assert listener.tracker.peers.requests == 2
    speaker.director.ended(request)
    flush(link)
    assert listener.counts() == speaker.counts() == [(0, 0, 0)] * 3
    assert there.peers_in_flight == listener.tracker.peers == InFlight()


def test_a_request_that_falls_back_is_counted_where_it_is_served() -> None:
    speaker, listener, link = pair()
    request = speaker.pick(LONG)
    flush(link)
    second = request.ranking.endpoints[1]
    speaker.director.response_started(request, second.address, 200)
    flush(link)
    assert listener.counts() == speaker.counts()
    first = listener.endpoint(request.ranking.endpoints[0].address, request.ranking.endpoints[0].server)
    assert first is not None
    assert first.failing > 0
    target = listener.endpoint(second.address, second.server)
    assert target is not None
    assert listener.index.cached_blocks(target, request.request.blocks) == len(request.request.blocks)


def test_a_peers_failure_counts_on_the_endpoint() -> None:
    speaker, listener, link = pair()
    request = speaker.pick()
    speaker.director.response_started(request, None, 503)
    speaker.director.ended(request)
    flush(link)
    assert listener.endpoints[place(speaker, request)].failing > 0


def test_a_peers_prompt_is_found_in_the_prefix_index() -> None:
    speaker, listener, link = pair()
    request = speaker.pick(LONG)
    flush(link)
    blocks = request.request.blocks
    assert len(blocks) > 10
    assert listener.index.matches(blocks, listener.endpoints) == speaker.index.matches(blocks, speaker.endpoints)


def test_a_new_picker_gets_requests_and_prefixes() -> None:
    speaker, listener, link = pair()
    requests = [speaker.pick(f"{number} {LONG}") for number in range(20)]
    speaker.publisher.flush()
    takeover = Link(speaker, listener, link.clock)
    takeover.connect(prefixes=True)
    assert listener.counts() == speaker.counts()
    for request in requests:
        blocks = request.request.blocks
        assert listener.index.matches(blocks, listener.endpoints) == speaker.index.matches(blocks, speaker.endpoints)


def test_a_snapshot_comes_in_parts_between_which_requests_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picker.peers.publisher.MAX_ENTRIES", 3)
    speaker, listener, link = pair()
    requests = [speaker.pick() for _ in range(8)]
    speaker.publisher.flush()
    link = Link(speaker, listener, link.clock)
    link.state.subscribed()
    link.up = True
    link.deliver(speaker.publisher.hello())
    parts = speaker.publisher.snapshot()
    link.deliver(next(parts))
    for request in (requests[0], requests[4]):
        speaker.director.ended(request)
    flush(link)
    for part in parts:
        link.deliver(part)
    assert link.up
    assert len(link.state) == 6
    assert listener.counts() == speaker.counts()


def test_a_scrape_does_not_count_a_peers_request_twice() -> None:
    speaker, listener, link = pair()
    request = speaker.pick()
    number = place(speaker, request)
    link.clock.now_s += 0.05
    # The server has the request before its report is here.
    listener.scrape(number, running=1)
    endpoint = listener.endpoints[number]
    assert endpoint.metrics is not None
    assert endpoint.metrics.foreign_requests == 1
    flush(link)
    assert endpoint.metrics.foreign_requests == 0
    assert endpoint.in_flight.requests == 1


def test_a_scrape_after_an_end_that_is_reported_later_hides_no_foreign_request() -> None:
    speaker, listener, link = pair()
    request = speaker.pick()
    flush(link)
    number = place(speaker, request)
    link.clock.now_s += 0.05
    speaker.director.ended(request)
    link.clock.now_s += 0.05
    # One request that came past both pickers. The peer's has ended.
    listener.scrape(number, running=1)
    flush(link)
    metrics = listener.endpoints[number].metrics
    assert metrics is not None
    assert metrics.foreign_requests == 1


def test_foreign_prefill_tokens_are_less_those_that_a_peer_reports_late() -> None:
    speaker, listener, link = pair()
    request = speaker.pick(LONG)
    number = place(speaker, request)
    link.clock.now_s += 0.05
    listener.scrape(number, running=2)
    endpoint = listener.endpoints[number]
    endpoint.foreign_prefill_tokens = request.prompt.tokens + 70
    flush(link)
    assert endpoint.foreign_prefill_tokens == 70


def test_a_dropped_peers_requests_count_as_foreign() -> None:
    speaker, listener, link = pair()
    request = speaker.pick()
    flush(link)
    number = place(speaker, request)
    link.clock.now_s += 0.05
    listener.scrape(number, running=1)
    link.state.drop()
    endpoint = listener.endpoints[number]
    assert listener.counts() == [(0, 0, 0)] * 3
    assert endpoint.metrics is not None
    assert endpoint.metrics.foreign_requests == 1
    assert listener.tracker.peers == InFlight()


def test_after_a_drop_only_another_subscription_counts() -> None:
    """The peer was silent and goes on: what it had in flight is known again by a snapshot only."""
    speaker, listener, link = pair()
    speaker.pick()
    flush(link)
    link.state.drop()
    speaker.pick()
    flush(link)
    assert not link.up
    assert listener.counts() == [(0, 0, 0)] * 3
    link.connect()
    assert listener.counts() == speaker.counts()


def test_a_drop_is_no_end_that_the_completion_rate_counts() -> None:
    speaker, listener, link = pair()
    for _ in range(20):
        speaker.pick()
    flush(link)
    before = [each.drain.interval_s for each in listener.endpoints]
    link.state.drop()
    assert [each.drain.interval_s for each in listener.endpoints] == before


def test_a_drop_frees_room_for_held_requests() -> None:
    speaker, listener, link = pair()
    speaker.pick()
    flush(link)
    freed: list[None] = []
    listener.tracker.on_freed = lambda: freed.append(None)
    link.state.drop()
    assert len(freed) == 1


def test_requests_of_a_restarted_peer_replace_those_before() -> None:
    speaker, listener, link = pair()
    for _ in range(3):
        speaker.pick()
    flush(link)
    restarted = ReplicaOfPicker("restarted", speaker.clock)
    restarted.pick()
    restarted.publisher.flush()
    link.speaker = restarted
    link.connect()
    assert listener.counts() == restarted.counts()


def test_a_request_on_an_unknown_endpoint_counts_once_that_joins() -> None:
    speaker, listener, link = pair()
    joining = listener.endpoints.pop()
    requests = [speaker.pick() for _ in range(6)]
    flush(link)
    assert listener.tracker.peers.requests == sum(each.endpoint.address != joining.address for each in requests)
    assert listener.tracker.peers.requests < 6
    listener.endpoints.append(joining)
    link.state.joined([joining])
    assert listener.counts() == speaker.counts()


def test_a_missing_batch_ends_the_subscription() -> None:
    speaker, _, link = pair()
    speaker.publisher.flush()
    with pytest.raises(InvalidMessage, match="batch 2 after 0"):
        link.state.apply(speaker.publisher.flush(), 0.0)


def test_a_peer_cannot_have_more_requests_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_state, "MAX_REQUESTS", 5)
    speaker, listener, link = pair()
    for _ in range(6):
        speaker.pick()
    flush(link)
    assert not link.up
    assert listener.tracker.peers.requests == 5


def test_a_peer_is_admitted_by_its_instance() -> None:
    speaker, listener, _ = pair()

    def reject(instance: str) -> None:
        raise InvalidMessage(f"{instance} is known")

    state = peer_state.PeerState(listener.tracker, listener, reject)
    state.subscribed()
    with pytest.raises(InvalidMessage, match="a is known"):
        state.apply(speaker.publisher.hello(), 0.0)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["pick", "end", "move", "flush", "scrape"]),
        st.integers(0, 1),
        st.integers(0, 99),
    ),
    max_size=60,
)


class World:
    """Two replicas, servers that count what is there, and one request on each that came past both."""

    def __init__(self) -> None:
        clock = self.clock = Clock()
        self.replicas = [ReplicaOfPicker("a", clock), ReplicaOfPicker("b", clock)]
        first, second = self.replicas
        self.links = [Link(first, second, clock), Link(second, first, clock)]
        for link in self.links:
            link.connect()
        self.open: list[tuple[int, InFlightRequest]] = []

    def step(self, action: str, who: int, number: int) -> None:
        self.clock.now_s += 0.01
        replica, link = self.replicas[who], self.links[who]
        match action:
            case "pick":
                self.open.append((who, replica.pick(f"{number} {LONG}", 1 + number % 2)))
            case "end" if self.open:
                owner, request = self.open.pop(number % len(self.open))
                self.replicas[owner].director.ended(request)
            case "move" if self.open:
                owner, request = self.open[number % len(self.open)]
                served_by = request.ranking.endpoints[number % 3].address
                self.replicas[owner].director.response_started(request, served_by, 200)
            case "flush":
                flush(link)
            case "lose":
                replica.publisher.flush()
            case "cut":
                link.up = False
            case "drop":
                link.up = False
                link.state.drop()
            case "connect":
                flush(link)
                link.connect()
            case "scrape":
                replica.scrape(number % 3, self.truth()[number % 3] + 1)
            case _:
                pass

    def truth(self) -> list[int]:
        there = [0, 0, 0]
        for owner, request in self.open:
            there[place(self.replicas[owner], request)] += request.prompt.sequences
        return there

    def settle(self) -> None:
        """All is reported."""
        self.clock.now_s += 0.01
        for link in self.links:
            flush(link)
            if not link.up:
                link.connect()


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_nothing_counts_twice_once_all_is_reported(steps: list[tuple[str, int, int]]) -> None:
    world = World()
    for step in steps:
        world.step(*step)
    world.settle()
    for replica in world.replicas:
        assert [each.in_flight.requests for each in replica.endpoints] == world.truth()
        scraped = [each.metrics for each in replica.endpoints if each.metrics is not None]
        assert {metrics.foreign_requests for metrics in scraped} <= {1}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pick", "pick", "end", "move", "flush", "scrape", "lose", "cut", "drop", "connect"]),
            st.integers(0, 1),
            st.integers(0, 99),
        ),
        max_size=60,
    )
)
@settings(max_examples=200, deadline=None)
def test_counts_are_true_after_losses_and_reconnects(steps: list[tuple[str, int, int]]) -> None:
    world = World()
    for step in steps:
        world.step(*step)
    world.settle()
    first, second = world.replicas
    assert [each.in_flight.requests for each in first.endpoints] == world.truth()
    assert first.counts() == second.counts()
    for number, link in enumerate(world.links):
        assert len(link.state) == len(world.replicas[number].publisher)
    for who in (0, 1):
        for number in range(3):
            world.step("scrape", who, number)
    for replica in world.replicas:
        assert [each.metrics and each.metrics.foreign_requests for each in replica.endpoints] == [1, 1, 1]
    while world.open:
        world.step("end", 0, 0)
    world.settle()
    for replica in world.replicas:
        assert replica.counts() == [(0, 0, 0)] * 3
        assert replica.tracker.total == replica.tracker.peers == InFlight()
        assert all(each.in_flight == each.peers_in_flight == InFlight() for each in replica.endpoints)
        assert all(each.credibility.generating == 0 for each in replica.endpoints)
