"""A server that publishes KV events, for tests to drive: over real sockets, on loopback."""

import asyncio
import errno
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import msgspec
import zmq
import zmq.asyncio

SIZE = 2


def free_port() -> int:
    """On loopback, outside the range from which Linux gives ports to outgoing connections."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as requested, suppress(OSError):
            requested.bind(("127.0.0.1", port))
            return port


def stored(number: int, parent: int | None = None) -> dict[str, Any]:
    """A block of the token `number` twice, which the server calls by that number too."""
    return {
        "type": "BlockStored",
        "block_hashes": [number],
        "parent_block_hash": parent,
        "token_ids": [number] * SIZE,
        "block_size": SIZE,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
    }


def removed(number: int) -> dict[str, Any]:
    return {"type": "BlockRemoved", "block_hashes": [number], "medium": "GPU"}


CLEARED = {"type": "AllBlocksCleared"}


class EventServer:
    """One life of a server. `lose` numbers a batch that no subscriber gets."""

    def __init__(self, port: int, replay_port: int | None, kept: int = 10_000) -> None:
        self._ports = port, replay_port
        self._kept = kept
        self._batches: list[tuple[int, bytes]] = []
        self._clock_s = asyncio.get_running_loop().time()
        self._context = zmq.asyncio.Context.instance()
        self._pub = self._context.socket(zmq.XPUB)
        self._pub.linger = 0
        self._pub.sndhwm = 100_000
        # Tell of each subscriber, also of one that comes while another is there.
        self._pub.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        # A ROUTER discards messages beyond its limit, the end of a replay included.
        self._router.sndhwm = 100_000
        self._replaying: asyncio.Task[None] | None = None
        self.requested: list[int] = []
        """Numbers from which on batches were asked for."""

    async def subscribed(self) -> None:
        """Wait for a subscriber: what is published before it is lost to it."""
        async with asyncio.timeout(20):
            while await self._pub.recv() != b"\x01":
                pass  # One that has left.

    async def publish(self, *events: dict[str, Any]) -> None:
        await self._pub.send_multipart((b"kv@test", *self._next(events)))

    def lose(self, *events: dict[str, Any]) -> None:
        self._next(events)

    async def send(self, *frames: bytes) -> None:
        """Whatever it be."""
        await self._pub.send_multipart(frames)

    def _next(self, events: tuple[dict[str, Any], ...]) -> tuple[bytes, bytes]:
        number = self._batches[-1][0] + 1 if self._batches else 0
        self._clock_s += 0.001
        payload = msgspec.msgpack.encode([self._clock_s, list(events), 0])
        self._batches = [*self._batches, (number, payload)][-self._kept :]
        return number.to_bytes(8, "big"), payload

    async def _replay(self) -> None:
        while True:
            client, _, start = await self._router.recv_multipart()
            self.requested.append(int.from_bytes(start, "big"))
            for number, payload in self._batches:
                if number >= self.requested[-1]:
                    await self._router.send_multipart((client, b"", b"kv@test", number.to_bytes(8, "big"), payload))
            await self._router.send_multipart((client, b"", b"", (-1).to_bytes(8, "big", signed=True), b""))

    async def __aenter__(self) -> Self:
        port, replay_port = self._ports
        if replay_port is not None:
            await _bind(self._router, replay_port)
            self._replaying = asyncio.create_task(self._replay())
        await _bind(self._pub, port)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._replaying is not None:
            self._replaying.cancel()
            await asyncio.gather(self._replaying, return_exceptions=True)
        self._router.close()
        self._pub.close()


async def _bind(socket: zmq.asyncio.Socket, port: int) -> None:
    """A socket closed before it may hold the port a little longer: its thread does that."""

    def bound() -> bool:
        try:
            socket.bind(f"tcp://127.0.0.1:{port}")
        except zmq.ZMQError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
        return True

    await until(bound)


@asynccontextmanager
async def running(task: asyncio.Task[None]) -> AsyncIterator[None]:
    """Until the end of the block, where it must not have failed."""
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 -- what sets it is the code under test
            await asyncio.sleep(0.005)
