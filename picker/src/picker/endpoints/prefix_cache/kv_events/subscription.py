"""Follows one server's events through all that can happen to them: lost batches, restarts, a picker that comes late.

Batches are numbered from 0 in a server's life. What is missed is asked for at the replay address, if there is one: the
server keeps its newest batches (10,000 unless told otherwise)."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from picker.bounded_text import shorten
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.kv_events.messages import Batch, Unreadable, read_batch
from picker.endpoints.prefix_cache.kv_events.reported_blocks import ReportedBlocks

log = structlog.get_logger(__name__)

REPLAY_TIMEOUT_S = 5.0
"""Between two batches of a replay. vLLM looks for requests ten times a second at least."""

MAX_MESSAGE_BYTES = 1 << 20
"""Of one part of a message: 100,000 tokens with their hashes, six times the largest step of a usual server. ZeroMQ
closes the connection of a peer that sends more."""

MAX_WAITING = 128
"""Batches received and not yet read, 128 MiB at most: a second of a busy server. When more wait, ZeroMQ stops reading
the connection, and the server's own queue holds them (100,000 unless configured)."""

MAX_WAITING_REPLAYED = 256
"""The same for a replay, whose sender discards what does not fit."""

AT_ONCE = 32
"""Batches looked at before other work has its turn: some milliseconds."""

TURN_S = 0.002
"""After this much work on batches other work has its turn, however few they were."""

REST_SHARE = 4.0
"""The pause after that much work, as a share of it: one server's flood takes at most a fifth of the event loop."""

GIVEN_UP_MS = 5_000
"""Without a connection for this long, it is made with a new socket: ZeroMQ gives up the address of a peer that sent
more than MAX_MESSAGE_BYTES. Others it reconnects within RECONNECT_MAX_MS."""

RECONNECT_MS = 100
RECONNECT_MAX_MS = 2_000
HEARTBEAT_MS = 10_000
"""A peer that does not answer three of them is taken for gone, and connected to anew: a pod's address may just stop to
answer."""


class Subscription:
    """Keeps `held` in step with what an endpoint tells. `run` it once, as a task; cancel it to stop."""

    def __init__(
        self,
        endpoint: Endpoint,
        held: ReportedBlocks,
        events_address: str,
        replay_address: str | None,
        emptied: Callable[[Endpoint], None],
    ) -> None:
        """Addresses are ZeroMQ's (`tcp://10.0.0.7:5557`). `emptied` is called when the server says that its cache holds
        nothing any more: it was reset, or is another process."""
        self._endpoint = endpoint
        self._held = held
        self._events_address = events_address
        self._replay_address = replay_address
        self._emptied = emptied
        self._next = 0
        """The number of the batch that is expected next."""
        self._newest_s = 0.0
        """When the last batch applied was made, by the server's clock."""
        self._told = False
        self._worked_s = 0.0
        """On batches since the last rest."""

    async def run(self) -> None:
        self._held.follow(self._endpoint)
        while True:
            await self._follow()

    async def _follow(self) -> None:
        """Follow over one socket until its connection has been lost for GIVEN_UP_MS."""
        events = zmq.asyncio.Context.instance().socket(zmq.SUB)
        _patient(events)
        events.rcvhwm = MAX_WAITING
        events.maxmsgsize = MAX_MESSAGE_BYTES
        connections = events.get_monitor_socket(zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED)
        events.connect(self._events_address)
        events.subscribe(b"")
        poller = zmq.asyncio.Poller()
        poller.register(events, zmq.POLLIN)
        poller.register(connections, zmq.POLLIN)
        lost = False
        try:
            while True:
                ready = dict(await poller.poll(GIVEN_UP_MS if lost else -1))
                if lost and not ready:
                    return
                if connections in ready:
                    event = parse_monitor_message(await connections.recv_multipart())["event"]
                    lost = event == zmq.Event.DISCONNECTED
                    if not lost:
                        await self._connected()
                with suppress(zmq.Again):
                    for _ in range(AT_ONCE):
                        await self._receive(await events.recv_multipart(zmq.NOBLOCK))
                        if self._worked_s >= TURN_S:
                            break
                await self._rest()
        finally:
            events.disable_monitor()
            connections.close(linger=0)
            events.close(linger=0)

    async def _connected(self) -> None:
        """To a server that is new, was away, or is another one in its place."""
        if self._replay_address is not None:
            await self._catch_up(self._replay_address)
        elif self._next:
            # What it did meanwhile nobody can tell.
            self._held.restart(self._endpoint, empty=False)

    async def _receive(self, frames: Sequence[bytes]) -> None:
        """A message of topic, number, batch."""
        if len(frames) != 3 or len(frames[1]) != 8:
            return
        number = int.from_bytes(frames[1], "big")
        batch = self._read(number, frames[2])
        if number < self._next:
            if batch is not None and batch.ts <= self._newest_s:
                return  # A replay has brought it before.
            self._restarted()
        if number > self._next and self._replay_address is not None:
            await self._catch_up(self._replay_address)
        if number >= self._next:
            self._apply(number, batch)

    async def _catch_up(self, address: str) -> None:
        """Ask for the batches that are missing, from the first one on if the server is another process now."""
        try:
            if not await self._replay(address):
                self._restarted()
                await self._replay(address)
        except TimeoutError:
            log.warning("kv_events.no_replay", endpoint=self._endpoint.address, address=address)
            self._held.restart(self._endpoint, empty=False)

    async def _replay(self, address: str) -> bool:
        """Apply what is missing; False, and nothing applied, if it is another process: the last batch that we have is
        asked for again, and only the same process has the same. Raises TimeoutError."""
        last = self._next - 1
        same = last < 0
        asking = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        _patient(asking)
        asking.rcvhwm = MAX_WAITING_REPLAYED
        asking.maxmsgsize = MAX_MESSAGE_BYTES
        asking.connect(address)
        try:
            await _send(asking, max(0, last))
            while True:
                await self._rest()  # A replay is long, and all of it may be there already.
                # [nothing, number, batch], in newer servers with the topic before the number; an empty batch ends it.
                async with asyncio.timeout(REPLAY_TIMEOUT_S):
                    frames = await asking.recv_multipart()
                if len(frames) < 2 or not frames[-1]:
                    return same
                numbered, payload = frames[-2:]
                if len(numbered) != 8:
                    self._complain(last, f"a batch number of {len(numbered)} bytes")
                    return same
                number = int.from_bytes(numbered, "big")
                batch = self._read(number, payload)
                if number == last:
                    same = batch is not None and batch.ts == self._newest_s
                    if not same:
                        return False
                elif number >= self._next:
                    if not same:
                        # It keeps the last one no more, so whether it is the same cannot be told.
                        self._held.restart(self._endpoint, empty=False)
                        same = True
                    self._apply(number, batch)
        finally:
            asking.close(linger=0)

    async def _rest(self) -> None:
        """Let other work have its turn, the longer the more work this one was."""
        worked_s, self._worked_s = self._worked_s, 0.0
        await asyncio.sleep(REST_SHARE * worked_s if worked_s >= TURN_S else 0)

    def _read(self, number: int, payload: bytes) -> Batch | None:
        """None for one that cannot be read."""
        begun_s = time.perf_counter()
        try:
            return read_batch(payload)
        except Unreadable as error:
            self._complain(number, str(error))
            return None
        finally:
            self._worked_s += time.perf_counter() - begun_s

    def _apply(self, number: int, batch: Batch | None) -> None:
        """Take over a batch; if some are missing before it, what was known is worth nothing."""
        begun_s = time.perf_counter()
        self._take_over(number, batch)
        self._worked_s += time.perf_counter() - begun_s

    def _take_over(self, number: int, batch: Batch | None) -> None:
        endpoint, held = self._endpoint, self._held
        if number == 0:
            held.restart(endpoint, empty=True)
        elif number > self._next:
            held.restart(endpoint, empty=False)
        if number != self._next or number == 0:
            log.info("kv_events.followed", endpoint=endpoint.address, since_batch=number, complete=number == 0)
        self._next = number + 1
        if batch is None:
            held.restart(endpoint, empty=False)
            return
        self._newest_s = batch.ts
        try:
            if held.apply(endpoint, batch.events):
                self._emptied(endpoint)
        except ValueError as error:
            self._complain(number, str(error))
            held.restart(endpoint, empty=False)

    def _restarted(self) -> None:
        """The numbers begin anew: another process, with nothing in its cache before its first batch."""
        log.info("kv_events.restarted", endpoint=self._endpoint.address)
        self._next, self._newest_s = 0, 0.0
        self._held.restart(self._endpoint, empty=False)
        self._emptied(self._endpoint)

    def _complain(self, number: int, problem: str) -> None:
        """Once: what cannot be read will come again and again."""
        if not self._told:
            self._told = True
            log.error("kv_events.unreadable", endpoint=self._endpoint.address, batch=number, problem=shorten(problem))


def _patient(socket: zmq.asyncio.Socket) -> None:
    socket.reconnect_ivl = RECONNECT_MS
    socket.reconnect_ivl_max = RECONNECT_MAX_MS
    socket.heartbeat_ivl = HEARTBEAT_MS
    socket.heartbeat_timeout = 3 * HEARTBEAT_MS
    socket.ipv6 = True


async def _send(asking: zmq.asyncio.Socket, number: int) -> None:
    await asking.send_multipart((b"", number.to_bytes(8, "big")))  # pyright: ignore[reportUnknownMemberType]
