"""What one peer has in flight, counted here like this picker's own."""

from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import CountedRequest, InFlightTracker
from picker.endpoints.load.prefill_tracker import Prompt
from picker.endpoints.prefix_cache.index import COARSE_STRIDE, PrefixIndex
from picker.peers.deltas import (
    FAILED,
    MAX_REQUESTS,
    NO_MODEL,
    SUCCEEDED,
    VERSION,
    Batch,
    Ended,
    Hello,
    InvalidMessage,
    Moved,
    Names,
    Prefixes,
    Scheduled,
    Snapshot,
    decode,
    unpack_hashes,
)


class Directory(Protocol):
    """The endpoints and prefix indexes that this picker knows."""

    def endpoint(self, address: str, server: str) -> Endpoint | None: ...

    def prefixes(self, pool: str) -> PrefixIndex | None:
        """`pool`: in the form `str(PoolName)`."""
        ...


class _PeerRequest(msgspec.Struct, eq=False, gc=False):
    """A request that a peer has in flight."""

    endpoint: tuple[str, str]
    """Address and server as the peer names them."""
    begun: Scheduled
    model: str | None
    sent_s: float
    """When it was sent to the endpoint, on this picker's clock."""
    counted: CountedRequest | None = None
    """None while this picker does not know the endpoint."""


class PeerState:
    """Applies one peer's messages, in their order, to the tracker and to the prefix indexes.

    A message is from the network. One that breaks the format or a limit raises InvalidMessage; the caller then ends the
    subscription. What was applied before remains until `drop`."""

    def __init__(
        self, tracker: InFlightTracker, directory: Directory, admit: Callable[[str], None] = lambda instance: None
    ) -> None:
        """`admit` is called with the instance of each subscription, and may raise."""
        self.instance: str | None = None
        """Of the peer; None before its first message and after `drop`."""
        self._admit = admit
        self._tracker = tracker
        self._directory = directory
        self._requests: dict[int, _PeerRequest] = {}
        self._unconfirmed: set[int] | None = None
        """Requests of before the subscription that the snapshot has not repeated yet; None after it."""
        self._sequence: int | None = None
        """Of the newest batch; None before the Hello of a subscription."""
        self._late: dict[Endpoint, list[int]] = {}
        """Requests and prefill tokens by which the newest scrapes are to be corrected."""

    def __len__(self) -> int:
        """The peer's requests in flight."""
        return len(self._requests)

    def subscribed(self) -> None:
        """A new subscription: its messages begin with a Hello. Requests known so far are counted until its snapshot
        shows that they have ended."""
        self._sequence = None

    def apply(self, data: bytes, now_s: float) -> None:
        """Apply a message that was received at `now_s`, on the clock of the scrapes. Raises InvalidMessage."""
        message = decode(data)
        if isinstance(message, Hello):
            self._hello(message)
            return
        if self._sequence is None:
            raise InvalidMessage("the first message is no Hello")
        try:
            match message:
                case Batch():
                    self._batch(message, now_s)
                case Snapshot():
                    self._snapshot(message, now_s)
                case Prefixes():
                    self._prefixes(message)
        except IndexError:
            raise InvalidMessage("index of a name that the message does not have") from None
        finally:
            self._correct()

    def joined(self, endpoints: Iterable[Endpoint]) -> None:
        """Count the requests on `endpoints`, which this picker did not know when they were reported."""
        by_name = {(endpoint.address, endpoint.server): endpoint for endpoint in endpoints}
        for request in self._requests.values():
            if request.counted is None and (endpoint := by_name.get(request.endpoint)) is not None:
                self._count(request, endpoint)
        self._correct()

    def drop(self) -> None:
        """Stop counting the peer's requests. Those that the newest scrapes showed count as foreign. The next message
        must be the Hello of another subscription."""
        requests = list(self._requests)
        for number in requests:
            self._withdraw(number)
        self._unconfirmed = self.instance = self._sequence = None
        self._correct()
        if requests and self._tracker.on_freed is not None:
            self._tracker.on_freed()

    def _hello(self, hello: Hello) -> None:
        if self._sequence is not None:
            raise InvalidMessage("more than one Hello")
        if hello.version != VERSION:
            raise InvalidMessage(f"version {hello.version}: this picker has {VERSION}")
        if hello.instance != self.instance:
            self._admit(hello.instance)
            self.drop()
            self.instance = hello.instance
        self._sequence = hello.sequence
        self._unconfirmed = set(self._requests)

    def _batch(self, batch: Batch, now_s: float) -> None:
        assert self._sequence is not None
        if batch.sequence != self._sequence + 1:
            raise InvalidMessage(f"batch {batch.sequence} after {self._sequence}")
        self._sequence = batch.sequence
        time_of = _times(batch.now_ms, now_s)
        for scheduled in batch.scheduled:
            self._scheduled(scheduled, batch.names, time_of)
        for moved in batch.moved:
            self._moved(moved, batch.names, time_of)
        for ended in batch.ended:
            self._ended(ended, time_of)

    def _snapshot(self, snapshot: Snapshot, now_s: float) -> None:
        unconfirmed = self._unconfirmed
        if unconfirmed is None:
            raise InvalidMessage("a Snapshot after the last one")
        time_of = _times(snapshot.now_ms, now_s)
        for scheduled in snapshot.scheduled:
            unconfirmed.discard(scheduled.number)
            self._scheduled(scheduled, snapshot.names, time_of)
        if snapshot.is_last:
            for number in unconfirmed:
                self._withdraw(number)
            self._unconfirmed = None

    def _scheduled(self, scheduled: Scheduled, names: Names, time_of: Callable[[int], float]) -> None:
        name, model = names.endpoints[scheduled.endpoint], names.models[scheduled.model]
        endpoint = self._directory.endpoint(*name)
        if scheduled.blocks and endpoint is not None:
            self._record(endpoint, names.pools[scheduled.pool], scheduled.blocks)
        known = self._requests.get(scheduled.number)
        if known is not None:
            if known.endpoint == name:
                return
            # It moved while there was no subscription.
            self._withdraw(scheduled.number)
        if len(self._requests) >= MAX_REQUESTS:
            raise InvalidMessage(f"more than {MAX_REQUESTS} requests in flight")
        request = _PeerRequest(name, scheduled, None if model == NO_MODEL else model, time_of(scheduled.at_ms))
        self._requests[scheduled.number] = request
        if endpoint is not None:
            self._count(request, endpoint)

    def _count(self, request: _PeerRequest, endpoint: Endpoint) -> None:
        begun, sent_s = request.begun, request.sent_s
        prompt = Prompt(begun.prefill_tokens, 0.001 * begun.predicted_ms, sent_s, begun.sequences, from_peer=True)
        request.counted = CountedRequest(endpoint, prompt, begun.decode_tokens, request.model)
        self._tracker.begin(request.counted, sent_s)
        self._late_by(endpoint, sent_s, begun.sequences, begun.prefill_tokens)

    def _moved(self, moved: Moved, names: Names, time_of: Callable[[int], float]) -> None:
        name = names.endpoints[moved.endpoint]
        endpoint = self._directory.endpoint(*name)
        if moved.blocks and endpoint is not None:
            self._record(endpoint, names.pools[moved.pool], moved.blocks)
        request = self._requests.get(moved.number)
        if request is None:
            return
        counted, moved_s = request.counted, time_of(moved.at_ms)
        if counted is not None and counted.endpoint is endpoint:
            return
        if counted is not None:
            counted.endpoint.answer_counted(failed=True)
            self._late_by(counted.endpoint, moved_s, -counted.prompt.sequences)
        request.endpoint, request.sent_s = name, moved_s
        if endpoint is None:
            if counted is not None:
                counted.withdraw()
                request.counted = None
        elif counted is None:
            self._count(request, endpoint)
        else:
            counted.move_to(endpoint)
            self._late_by(endpoint, moved_s, counted.prompt.sequences, counted.prompt.tokens)

    def _ended(self, ended: Ended, time_of: Callable[[int], float]) -> None:
        request = self._requests.pop(ended.number, None)
        if request is None or request.counted is None:
            return
        counted = request.counted
        endpoint, ended_s = counted.endpoint, time_of(ended.at_ms)
        if ended.outcome in (SUCCEEDED, FAILED):
            counted.count_response(failed=ended.outcome == FAILED)
        counted.uncount(ended_s)
        self._late_by(endpoint, max(request.sent_s, ended_s), -counted.prompt.sequences)

    def _withdraw(self, number: int) -> None:
        request = self._requests.pop(number, None)
        if request is not None and (counted := request.counted) is not None:
            self._late_by(counted.endpoint, request.sent_s, -counted.prompt.sequences)
            counted.withdraw()

    def _late_by(self, endpoint: Endpoint, since_s: float, requests: int, prefill_tokens: int = 0) -> None:
        """At the newest scrape `requests` more were there than counted, unless the scrape was before `since_s`."""
        metrics = endpoint.metrics
        if metrics is not None and since_s <= metrics.scraped_at_s:
            late = self._late.setdefault(endpoint, [0, 0])
            late[0] += requests
            late[1] += prefill_tokens

    def _correct(self) -> None:
        if self._late:
            for endpoint, (requests, prefill_tokens) in self._late.items():
                endpoint.correct_scrape(requests, prefill_tokens)
            self._late.clear()

    def _record(self, endpoint: Endpoint, pool: str, blocks: bytes) -> None:
        index = self._directory.prefixes(pool)
        if index is not None:
            index.record_sampled(endpoint, unpack_hashes(blocks))

    def _prefixes(self, prefixes: Prefixes) -> None:
        blocks = unpack_hashes(prefixes.blocks)
        if len(blocks) != len(prefixes.stand_for) or not set(prefixes.stand_for) <= {1, COARSE_STRIDE}:
            raise InvalidMessage(f"{len(blocks)} blocks that stand for {prefixes.stand_for[:8].hex()}...")
        endpoint, index = self._directory.endpoint(*prefixes.endpoint), self._directory.prefixes(prefixes.pool)
        if endpoint is not None and index is not None:
            index.restore(endpoint, zip(blocks, prefixes.stand_for, strict=True))


def _times(now_ms: int, now_s: float) -> Callable[[int], float]:
    """Returns the function from the peer's times to this picker's. The way of the message is taken to take no time."""

    def time_of(at_ms: int) -> float:
        if at_ms > now_ms:
            raise InvalidMessage("a time after that of the message")
        return now_s - (now_ms - at_ms) / 1000.0

    return time_of
