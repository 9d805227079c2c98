"""What this picker reports to its peers: its own requests, as the director observes them."""

from collections.abc import Callable, Iterable, Iterator
from math import ceil

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.peers.deltas import (
    FAILED,
    FULL_BYTES,
    MAX_ENTRIES,
    MAX_MS,
    MAX_PREFIX_BLOCKS,
    MAX_REQUESTS,
    MAX_TOKENS,
    SUCCEEDED,
    UNKNOWN,
    VERSION,
    Batch,
    Ended,
    Hello,
    Moved,
    NameTable,
    Prefixes,
    Scheduled,
    Snapshot,
    encode,
    pack_blocks,
    pack_hashes,
)
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.prompt_work import MAX_SEQUENCES
from picker.requestcontrol.request_observer import RequestObserver
from picker.requestcontrol.served_pool import ServedPool

MAX_PREFIX_SNAPSHOT_BLOCKS = 2 << 20
"""Of all prefix indexes together, sent to a new peer: 18 MiB. Judgement: 134 million tokens at 64 a block."""


class Publisher(RequestObserver):
    """Collects changes into batches, which all subscribers get. `flush` returns them; the caller decides when."""

    def __init__(self, clock: Callable[[], float], instance: str) -> None:
        """`clock`: that of the scrapes. `instance`: a random name of this process."""
        self.instance = instance
        self.sequence = 0
        """Of the newest batch."""
        self.active = False
        """Whether there are subscribers. Without them requests are only numbered."""
        self.on_changed: Callable[[bool], None] | None = None
        """Called for the first change since the last flush, and, with True, when a batch is full."""
        self._clock = clock
        self._numbers: dict[InFlightRequest, int] = {}
        self._next_number = 0
        self._clear()

    def __len__(self) -> int:
        """Requests in flight that are reported."""
        return len(self._numbers)

    def scheduled(self, request: InFlightRequest, pool: ServedPool | None = None) -> None:
        if len(self._numbers) >= MAX_REQUESTS:
            return
        number = self._numbers[request] = self._next_number
        self._next_number += 1
        if self.active:
            blocks = pack_blocks(request.request.blocks)
            self._scheduled.append(_scheduled(request, number, self._names, blocks))
            self._changed(len(self._scheduled), len(blocks))

    def moved(self, request: InFlightRequest) -> None:
        number = self._numbers.get(request)
        if self.active and number is not None:
            endpoint, blocks = request.endpoint, pack_blocks(request.request.blocks)
            names = self._names
            self._moved.append(
                Moved(
                    number,
                    _ms(self._clock()),
                    names.endpoint(endpoint.address, endpoint.server),
                    names.pool(request.pool_key),
                    blocks,
                )
            )
            self._changed(len(self._moved), len(blocks))

    def ended(self, request: InFlightRequest) -> None:
        number = self._numbers.pop(request, None)
        if self.active and number is not None:
            self._ended.append(Ended(number, _ms(self._clock()), _outcome(request)))
            self._changed(len(self._ended), 0)

    def flush(self) -> bytes:
        """Returns a batch of all changes since the last one. It may have none."""
        self.sequence += 1
        batch = Batch(
            self.sequence,
            _ms(self._clock()),
            self._names.names(),
            tuple(self._scheduled),
            tuple(self._moved),
            tuple(self._ended),
        )
        self._clear()
        return encode(batch)

    def hello(self) -> bytes:
        """Returns the first message to a new subscriber. The batch in progress must have been flushed."""
        return encode(Hello(VERSION, self.instance, self.sequence))

    def snapshot(self) -> Iterator[bytes]:
        """Yields this picker's requests in flight. Batches may be sent in between."""
        names, part = NameTable(), list[Scheduled]()
        for request, number in list(self._numbers.items()):
            if len(part) >= MAX_ENTRIES or names.size_bytes >= FULL_BYTES:
                yield encode(Snapshot(_ms(self._clock()), names.names(), tuple(part), is_last=False))
                names, part = NameTable(), []
            # Of one that has ended since, the batch that says so may have been sent.
            if request in self._numbers:
                part.append(_scheduled(request, number, names, b""))
        yield encode(Snapshot(_ms(self._clock()), names.names(), tuple(part), is_last=True))

    def _changed(self, entries: int, block_bytes: int) -> None:
        self._block_bytes += block_bytes
        is_full = entries >= MAX_ENTRIES or self._block_bytes + self._names.size_bytes >= FULL_BYTES
        if self.on_changed is not None and (is_full or not self._is_changed):
            self._is_changed = True
            self.on_changed(is_full)

    def _clear(self) -> None:
        self._names = NameTable()
        self._scheduled: list[Scheduled] = []
        self._moved: list[Moved] = []
        self._ended: list[Ended] = []
        self._block_bytes = 0
        self._is_changed = False


def prefix_snapshot(pools: Iterable[tuple[str, PrefixIndex, Iterable[Endpoint]]]) -> Iterator[bytes]:
    """Yields what the endpoints of each pool (key, index and endpoints) are taken to hold."""
    left = MAX_PREFIX_SNAPSHOT_BLOCKS
    for key, index, endpoints in pools:
        for endpoint in list(endpoints):
            held = index.held(endpoint)[:left]
            left -= len(held)
            for start in range(0, len(held), MAX_PREFIX_BLOCKS):
                part = held[start : start + MAX_PREFIX_BLOCKS]
                yield encode(
                    Prefixes(
                        key,
                        (endpoint.address, endpoint.server),
                        pack_hashes([block for block, _ in part]),
                        bytes([stands_for for _, stands_for in part]),
                    )
                )


def _scheduled(request: InFlightRequest, number: int, names: NameTable, blocks: bytes) -> Scheduled:
    endpoint, prompt = request.endpoint, request.prompt
    # Within the limits of the format: one request beyond them would end every subscription.
    return Scheduled(
        number,
        _ms(prompt.sent_s),
        names.endpoint(endpoint.address, endpoint.server),
        names.pool(request.pool_key),
        names.model(request.model),
        min(MAX_TOKENS, prompt.tokens),
        ceil(min(MAX_MS, 1000.0 * prompt.predicted_s)),
        min(MAX_TOKENS, request.decode_tokens),
        min(MAX_SEQUENCES, prompt.sequences),
        blocks,
    )


def _outcome(request: InFlightRequest) -> int:
    if request.succeeded:
        return SUCCEEDED
    return FAILED if request.status is not None and request.status >= 500 else UNKNOWN


def _ms(time_s: float) -> int:
    return round(time_s * 1000.0)
