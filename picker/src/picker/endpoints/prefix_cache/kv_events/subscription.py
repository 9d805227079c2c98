"""Subscribes to one server's KV events, and handles lost batches, restarts, and a subscription after the first batch.

Batches are numbered from 0 within a server's lifetime. Missed batches are requested at the replay address, if there is
one. The server keeps its newest batches (10,000 by default).
"""

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
"""Between two batches of a replay. vLLM checks for requests at least ten times a second."""

MAX_MESSAGE_BYTES = 1 << 20
"""Limit on one part of a message: 100,000 tokens with their hashes, six times the largest step of a usual server.
ZeroMQ closes the connection of a peer that sends more."""

MAX_WAITING = 128
"""Limit on batches received and not read, 128 MiB at most: a second of a busy server. At the limit ZeroMQ stops reading
the connection, and the server's own queue holds the rest (100,000 by default)."""

MAX_WAITING_REPLAYED = 256
"""The same for a replay. Its sender discards batches beyond it."""

MAX_BATCHES_PER_TURN = 32
"""Limit on the batches applied before other tasks run: some milliseconds."""

TURN_S = 0.002
"""Limit on the time spent on batches before other tasks run."""

REST_SHARE = 4.0
"""The pause after that time, as a multiple of it: one server's flood takes at most a fifth of the event loop."""

RECONNECT_TIMEOUT_MS = 5_000
"""After this time without a connection a new socket is used. ZeroMQ does not reconnect to a peer that sent more than
MAX_MESSAGE_BYTES. It reconnects to others within RECONNECT_MAX_MS."""

RECONNECT_MS = 100
RECONNECT_MAX_MS = 2_000
HEARTBEAT_MS = 10_000
"""A peer that does not answer three of them counts as gone and is reconnected. A pod's address may just stop to
answer."""


class Subscription:
    """Updates `held` from an endpoint's events. `run` it once, as a task. Cancel the task to stop it."""

    def __init__(
        self,
        endpoint: Endpoint,
        held: ReportedBlocks,
        events_address: str,
        replay_address: str | None,
        emptied: Callable[[Endpoint], None],
    ) -> None:
        """Addresses are ZeroMQ's (`tcp://10.0.0.7:5557`). `emptied` is called when the server's cache has become empty:
        it was reset, or the server is another process."""
        self._endpoint = endpoint
        self._held = held
        self._events_address = events_address
        self._replay_address = replay_address
        self._emptied = emptied
        self._next = 0
        """Number of the next expected batch."""
        self._newest_s = 0.0
        """Time of the last applied batch, by the server's clock."""
        self._error_logged = False
        self._worked_s = 0.0
        """Time spent on batches since the last pause."""

    async def run(self) -> None:
        self._held.follow(self._endpoint)
        while True:
            await self._follow()

    async def _follow(self) -> None:
        """Follow over one socket until its connection has been lost for RECONNECT_TIMEOUT_MS."""
        events = zmq.asyncio.Context.instance().socket(zmq.SUB)
        _configure(events)
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
                ready = dict(await poller.poll(RECONNECT_TIMEOUT_MS if lost else -1))
                if lost and not ready:
                    return
                if connections in ready:
                    event = parse_monitor_message(await connections.recv_multipart())["event"]
                    lost = event == zmq.Event.DISCONNECTED
                    if not lost:
                        await self._connected()
                with suppress(zmq.Again):
                    for _ in range(MAX_BATCHES_PER_TURN):
                        await self._receive(await events.recv_multipart(zmq.NOBLOCK))
                        if self._worked_s >= TURN_S:
                            break
                await self._pause()
        finally:
            events.disable_monitor()
            connections.close(linger=0)
            events.close(linger=0)

    async def _connected(self) -> None:
        """Handle a new connection: to a new server, to one that was away, or to one that replaces it."""
        if self._replay_address is not None:
            await self._catch_up(self._replay_address)
        elif self._next:
            # The events in between are lost.
            self._held.restart(self._endpoint, empty=False)

    async def _receive(self, frames: Sequence[bytes]) -> None:
        """Handle a message: topic, number, batch."""
        if len(frames) != 3 or len(frames[1]) != 8:
            return
        number = int.from_bytes(frames[1], "big")
        batch = self._read(number, frames[2])
        if number < self._next:
            if batch is not None and batch.ts <= self._newest_s:
                return  # A replay has delivered it already.
            self._restarted()
        if number > self._next and self._replay_address is not None:
            await self._catch_up(self._replay_address)
        if number >= self._next:
            self._apply(number, batch)

    async def _catch_up(self, address: str) -> None:
        """Request the missing batches, from the first one on if the server is another process now."""
        try:
            if not await self._replay(address):
                self._restarted()
                await self._replay(address)
        except TimeoutError:
            log.warning("kv_events.no_replay", endpoint=self._endpoint.address, address=address)
            self._held.restart(self._endpoint, empty=False)

    async def _replay(self, address: str) -> bool:
        """Apply the missing batches. Returns False, and applies none, if the server is another process.

        The last applied batch is requested as well: only the same process has the same one. Raises TimeoutError.
        """
        last = self._next - 1
        same = last < 0
        socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        _configure(socket)
        socket.rcvhwm = MAX_WAITING_REPLAYED
        socket.maxmsgsize = MAX_MESSAGE_BYTES
        socket.connect(address)
        try:
            await _send(socket, max(0, last))
            while True:
                await self._pause()  # A replay is long, and all of it may have arrived already.
                # [empty, number, batch]. Newer servers add the topic before the number. An empty batch ends the replay.
                async with asyncio.timeout(REPLAY_TIMEOUT_S):
                    frames = await socket.recv_multipart()
                if len(frames) < 2 or not frames[-1]:
                    return same
                numbered, payload = frames[-2:]
                if len(numbered) != 8:
                    self._log_unreadable(last, f"a batch number of {len(numbered)} bytes")
                    return same
                number = int.from_bytes(numbered, "big")
                batch = self._read(number, payload)
                if number == last:
                    same = batch is not None and batch.ts == self._newest_s
                    if not same:
                        return False
                elif number >= self._next:
                    if not same:
                        # The server has discarded the last one, so whether it is the same process is unknown.
                        self._held.restart(self._endpoint, empty=False)
                        same = True
                    self._apply(number, batch)
        finally:
            socket.close(linger=0)

    async def _pause(self) -> None:
        """Let other tasks run, for a time in proportion to the time spent on batches."""
        worked_s, self._worked_s = self._worked_s, 0.0
        await asyncio.sleep(REST_SHARE * worked_s if worked_s >= TURN_S else 0)

    def _read(self, number: int, payload: bytes) -> Batch | None:
        """Decode a batch. None for one that cannot be decoded."""
        begun_s = time.perf_counter()
        try:
            return read_batch(payload)
        except Unreadable as error:
            self._log_unreadable(number, str(error))
            return None
        finally:
            self._worked_s += time.perf_counter() - begun_s

    def _apply(self, number: int, batch: Batch | None) -> None:
        """Apply a batch. Drops all earlier state if batches before it are missing."""
        begun_s = time.perf_counter()
        self._apply_untimed(number, batch)
        self._worked_s += time.perf_counter() - begun_s

    def _apply_untimed(self, number: int, batch: Batch | None) -> None:
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
            self._log_unreadable(number, str(error))
            held.restart(endpoint, empty=False)

    def _restarted(self) -> None:
        """Handle numbers that start again: another process, whose cache is empty before its first batch."""
        log.info("kv_events.restarted", endpoint=self._endpoint.address)
        self._next, self._newest_s = 0, 0.0
        self._held.restart(self._endpoint, empty=False)
        self._emptied(self._endpoint)

    def _log_unreadable(self, number: int, problem: str) -> None:
        """Logged once: the same problem will recur with each batch."""
        if not self._error_logged:
            self._error_logged = True
            log.error("kv_events.unreadable", endpoint=self._endpoint.address, batch=number, problem=shorten(problem))


def _configure(socket: zmq.asyncio.Socket) -> None:
    socket.reconnect_ivl = RECONNECT_MS
    socket.reconnect_ivl_max = RECONNECT_MAX_MS
    socket.heartbeat_ivl = HEARTBEAT_MS
    socket.heartbeat_timeout = 3 * HEARTBEAT_MS
    socket.ipv6 = True


async def _send(socket: zmq.asyncio.Socket, number: int) -> None:
    await socket.send_multipart((b"", number.to_bytes(8, "big")))  # pyright: ignore[reportUnknownMemberType]
