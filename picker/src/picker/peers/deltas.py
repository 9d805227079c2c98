"""The messages from one replica of the picker to another: arrays of MessagePack.

A subscriber first gets a Hello, then the requests in flight as Snapshots. Batches of changes come from the Hello on.
Names are sent once a message: requests refer to them by their index. Times are milliseconds on the sender's own clock,
and each message says what that clock shows, so clocks of two pods are never compared."""

import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from picker.bounded_text import MAX_CHARACTERS
from picker.endpoints.prefix_cache.index import sampled_hashes
from picker.requestcontrol.prompt_work import MAX_SEQUENCES

VERSION = 1
"""Of this format. Replicas of two versions share nothing while a release rolls out."""

MAX_MESSAGE_BYTES = 512 << 10
"""Of one message. A full batch has FULL_BYTES of blocks and names, and MAX_ENTRIES of each kind of at most 60 bytes."""

MAX_ENTRIES = 1_000
"""Of each list of a message. Measured: applying so many requests takes some 10 ms of the event loop."""

FULL_BYTES = 128 << 10
"""Of blocks and names in a message at which the sender begins another. Forty of the longest prompts fill it."""

MAX_BLOCKS = 368
"""Of one prompt: what `sampled_hashes` leaves of the 2,048 blocks that are hashed."""

BLOCK_BYTES = 8

MAX_PREFIX_BLOCKS = 8_192
"""Of a Prefixes message: 72 KiB."""

MAX_TOKENS = 1 << 40
"""Of one request. More than the limits of a request's body allow."""

MAX_REQUESTS = 50_000
"""In flight through one peer, and the largest number of requests that are followed: the open calls that a picker
accepts."""

MAX_MS = 1 << 52

Milliseconds = Annotated[int, Meta(ge=0, le=MAX_MS)]
Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Index = Annotated[int, Meta(ge=0, lt=MAX_ENTRIES * 2)]
Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]
Name = Annotated[str, Meta(max_length=MAX_CHARACTERS)]
PoolKey = Annotated[str, Meta(max_length=600)]
"""In the form `str(PoolName)`: group, namespace and name have 253, 63 and 253 characters at most."""

Blocks = Annotated[bytes, Meta(max_length=MAX_BLOCKS * BLOCK_BYTES)]

NO_MODEL = ""
"""In place of the name of a request's model where it names none."""

UNKNOWN, SUCCEEDED, FAILED = range(3)
"""How a response ended: FAILED is an error of the server's (5xx)."""


class Names(Struct, array_like=True, frozen=True, gc=False):
    """The names that a message's entries refer to."""

    endpoints: Annotated[tuple[tuple[Name, Name], ...], Meta(max_length=2 * MAX_ENTRIES)] = ()
    """Address and name of the model server of each."""
    pools: Annotated[tuple[PoolKey, ...], Meta(max_length=2 * MAX_ENTRIES)] = ()
    models: Annotated[tuple[Name, ...], Meta(max_length=2 * MAX_ENTRIES)] = ()


class Scheduled(Struct, array_like=True, frozen=True, gc=False):
    """A request that is counted on an endpoint."""

    number: Number
    """Of the sender's requests, each has its own."""
    at_ms: Milliseconds
    endpoint: Index
    pool: Index
    model: Index
    prefill_tokens: Tokens
    predicted_ms: Milliseconds
    """To the first token, by the sender's step time; 0 where it is not known."""
    decode_tokens: Tokens
    sequences: Annotated[int, Meta(ge=1, le=MAX_SEQUENCES)]
    blocks: Blocks
    """See `pack_blocks`."""


class Moved(Struct, array_like=True, frozen=True, gc=False):
    """A request that another endpoint serves. The endpoint before has failed."""

    number: Number
    at_ms: Milliseconds
    endpoint: Index
    pool: Index
    blocks: Blocks


class Ended(Struct, array_like=True, frozen=True, gc=False):
    """A request that has left its endpoint."""

    number: Number
    at_ms: Milliseconds
    outcome: Annotated[int, Meta(ge=UNKNOWN, le=FAILED)]


class Subscribe(Struct, array_like=True, tag="subscribe", frozen=True, gc=False):
    """The only message of a subscriber."""

    version: int
    prefixes: bool
    """Whether the prefix index is to be sent, too: the subscriber has just started."""


class Hello(Struct, array_like=True, tag="hello", frozen=True, gc=False):
    """The first message to a subscriber."""

    version: int
    instance: Name
    """Of the sending process. A restarted one numbers its requests again."""
    sequence: Number
    """Of the newest batch before the subscription."""


class Snapshot(Struct, array_like=True, tag="snapshot", frozen=True, gc=False):
    """Requests in flight at the time of the subscription. Their blocks are left out, because Prefixes have them."""

    now_ms: Milliseconds
    names: Names
    scheduled: Annotated[tuple[Scheduled, ...], Meta(max_length=MAX_ENTRIES)]
    is_last: bool
    """Whether all have been sent: of the sender's requests known before, those that were not sent again have ended."""


class Batch(Struct, array_like=True, tag="batch", frozen=True, gc=False):
    """What has changed since the batch before. Without entries it says that the sender is alive."""

    sequence: Number
    now_ms: Milliseconds
    names: Names
    scheduled: Annotated[tuple[Scheduled, ...], Meta(max_length=MAX_ENTRIES)]
    moved: Annotated[tuple[Moved, ...], Meta(max_length=MAX_ENTRIES)]
    ended: Annotated[tuple[Ended, ...], Meta(max_length=MAX_ENTRIES)]


class Prefixes(Struct, array_like=True, tag="prefixes", frozen=True, gc=False):
    """A part of what one endpoint is taken to hold in its prefix cache, the most recently used block first."""

    pool: PoolKey
    endpoint: tuple[Name, Name]
    blocks: Annotated[bytes, Meta(max_length=MAX_PREFIX_BLOCKS * BLOCK_BYTES)]
    stand_for: Annotated[bytes, Meta(max_length=MAX_PREFIX_BLOCKS)]
    """For each block, the number of blocks that it represents."""


Message = Hello | Snapshot | Batch | Prefixes


class InvalidMessage(Exception):
    """What a peer sent breaks the format or its limits."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)
_subscription_decoder = msgspec.msgpack.Decoder(Subscribe)


def encode(message: Message | Subscribe) -> bytes:
    return _encoder.encode(message)


def decode(data: bytes) -> Message:
    """Raises InvalidMessage."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise InvalidMessage(f"message of {len(data)} bytes exceeds the limit of {MAX_MESSAGE_BYTES}")
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidMessage(str(error)) from None


def decode_subscription(data: bytes) -> Subscribe:
    """Raises InvalidMessage."""
    try:
        return _subscription_decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidMessage(str(error)) from None


def pack_hashes(hashes: Iterable[int]) -> bytes:
    """Eight bytes each, little-endian."""
    packed = array("Q", hashes)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def pack_blocks(hashes: Sequence[int]) -> bytes:
    """Those of a prompt's blocks that an index remembers."""
    return pack_hashes(sampled_hashes(hashes))


def unpack_hashes(data: bytes) -> Sequence[int]:
    """Raises InvalidMessage."""
    unpacked = array("Q")
    try:
        unpacked.frombytes(data)
    except ValueError:
        raise InvalidMessage(f"{len(data)} bytes of blocks are no multiple of {BLOCK_BYTES}") from None
    if sys.byteorder == "big":
        unpacked.byteswap()
    return unpacked


def _size(model: str | None) -> int:
    """Bytes of a model's name. 0 for a name that is not sent: clients choose it, and no adapter has such a name."""
    if not model or len(model) > MAX_CHARACTERS:
        return 0
    try:
        return len(model.encode())
    except UnicodeEncodeError:
        return 0


class NameTable:
    """Collects the names of one message, each once."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._endpoints: dict[tuple[str, str], int] = {}
        self._pools: dict[str, int] = {}
        self._models: dict[str, int] = {}

    def endpoint(self, address: str, server: str) -> int:
        index = self._endpoints.get((address, server))
        if index is None:
            index = self._endpoints[address, server] = len(self._endpoints)
            self.size_bytes += len(address) + len(server)
        return index

    def pool(self, key: str) -> int:
        index = self._pools.get(key)
        if index is None:
            index = self._pools[key] = len(self._pools)
            self.size_bytes += len(key)
        return index

    def model(self, name: str | None) -> int:
        index = self._models.get(name or NO_MODEL)
        if index is None:
            size = _size(name)
            index = self._models.setdefault(name if name and size else NO_MODEL, len(self._models))
            self.size_bytes += size
        return index

    def names(self) -> Names:
        return Names(tuple(self._endpoints), tuple(self._pools), tuple(self._models))
