"""Publishes KV events over ZeroMQ: a PUB socket for new batches, a ROUTER socket for replay.

A message has three frames: topic, sequence number (8 bytes, big-endian, from 0), and batch. A replay request is one
sequence number. The responses are the kept messages from that number on, then the number -1 with an empty topic and
batch. Servers that encode events as arrays omit the topic from the responses.
"""

import asyncio
import time
from collections import deque

import zmq
import zmq.asyncio

from vllm_mock.kv_events.config import KvEventsConfig
from vllm_mock.kv_events.messages import Batch, Encoding, Event, encode

_END = (-1).to_bytes(8, "big", signed=True)


class KvEventPublisher:
    """Publisher of one engine. Create and stop it on the event loop's thread."""

    def __init__(self, config: KvEventsConfig, encoding: Encoding = Encoding.MAP) -> None:
        """Opens the sockets. Raises zmq.ZMQError if an address is in use or invalid."""
        self._topic = config.topic.encode()
        self._encoding = encoding
        self._sent = 0
        self._kept: deque[tuple[bytes, bytes]] = deque(maxlen=config.buffer_steps)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()  # pyright: ignore[reportUnknownVariableType]
        self._pub = context.socket(zmq.PUB)
        self._pub.set_hwm(config.hwm)
        self._pub.linger = 0
        if "*" in config.endpoint or "::" in config.endpoint or config.endpoint.startswith(("ipc://", "inproc://")):
            self._pub.bind(config.endpoint)
        else:
            self._pub.connect(config.endpoint)
        self._router: zmq.asyncio.Socket | None = None
        if config.replay_endpoint is not None:
            self._router = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
            self._router.linger = 0
            self._router.bind(config.replay_endpoint)
        self._replay: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Serves replay requests on the running loop."""
        if self._router is not None:
            self._replay = asyncio.create_task(self._answer(self._router))

    def publish(self, events: list[Event]) -> None:
        """Publishes the batch of one step. Never waits: batches beyond a slow subscriber's queue are discarded."""
        number = self._sent.to_bytes(8, "big")
        payload = encode(Batch(time.time(), events), self._encoding)
        self._sent += 1
        self._kept.append((number, payload))
        self._pub.send_multipart((self._topic, number, payload), zmq.NOBLOCK)  # pyright: ignore[reportUnknownMemberType]

    async def stop(self) -> None:
        if self._replay is not None:
            self._replay.cancel()
            await asyncio.gather(self._replay, return_exceptions=True)
        if self._router is not None:
            self._router.close()
        self._pub.close()

    async def _answer(self, router: zmq.asyncio.Socket) -> None:
        while True:
            frames = await router.recv_multipart()
            if len(frames) != 3 or len(frames[2]) != 8:
                continue
            client, _, start = frames
            kept = [(self._topic, number, payload) for number, payload in self._kept if number >= start]
            for answer in (*kept, (b"", _END, b"")):
                frames = answer if self._encoding is Encoding.MAP else answer[1:]
                await router.send_multipart((client, b"", *frames))  # pyright: ignore[reportUnknownMemberType]
