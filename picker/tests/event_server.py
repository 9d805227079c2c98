"""A server that publishes KV events under the control of a test, over real sockets on loopback."""

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
    """A port on loopback, outside the range of Linux's ports for outgoing connections."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as requested, suppress(OSError):
            requested.bind(("127.0.0.1", port))
            return port


def stored(number: int, parent: int | None = None) -> dict[str, Any]:
    """A block of the token `number` twice. The server's hash of it is that number."""
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
    """One process of a server. `lose` numbers a batch that no subscriber receives."""

    def __init__(self, port: int, replay_port: int | None, kept: int = 10_000) -> None:
        self._ports = port, replay_port
        self._kept = kept
        self._batches: list[tuple[int, bytes]] = []
        self._clock_s = asyncio.get_running_loop().time()
        self._context = zmq.asyncio.Context.instance()
        self._pub = self._context.socket(zmq.XPUB)
        self._pub.linger = 0
        self._pub.sndhwm = 100_000
        # Report each subscriber, also a second one.
        self._pub.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        # A ROUTER discards messages beyond its limit, the end of a replay included.
        self._router.sndhwm = 100_000
        self._replaying: asyncio.Task[None] | None = None
        self.requested: list[int] = []
        """First batch numbers of the requested replays."""

    async def subscribed(self) -> None:
        """Wait for a subscriber, which receives no earlier batches."""
        async with asyncio.timeout(20):
            while await self._pub.recv() != b"\x01":
                pass  # An unsubscription.

    async def publish(self, *events: dict[str, Any]) -> None:
        await self._pub.send_multipart((b"kv@test", *self._next(events)))

    def lose(self, *events: dict[str, Any]) -> None:
        self._next(events)

    async def send(self, *frames: bytes) -> None:
        """Send any frames."""
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
    """Retries while the thread of a closed socket still holds the port."""

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
    """Run `task` until the end of the block. It must not have ended by then."""
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 -- the code under test has no event for it
            await asyncio.sleep(0.005)
