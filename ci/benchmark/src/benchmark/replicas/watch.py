"""Looking at every replica's /metrics in an interval, while something else runs."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from benchmark.replicas.page import UNKNOWN, ReplicaLoad, read_page

DEFAULT_INTERVAL_S = 0.5
"""KV cache use moves by a percent or so in this time, and a page costs a server about a millisecond."""

DEFAULT_TIMEOUT_S = 1.0
"""A vLLM under load answers within tens of ms; what comes later says nothing of the moment."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A model server and where its metrics are."""

    name: str
    metrics_url: str


@dataclass(frozen=True, slots=True)
class Look:
    """All replicas at one moment."""

    at_s: float
    """On the clock `time.perf_counter`."""
    loads: tuple[ReplicaLoad, ...]
    """In the order of the replicas; UNKNOWN for one that did not answer in time."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen; grows while the watching goes on."""

    replicas: tuple[Replica, ...]
    looks: list[Look]


def replica_at(text: str) -> Replica:
    """A replica by its URL, which without a path is that of /metrics, and named by host and port; `NAME=URL` names it
    otherwise. Raises ValueError for what is no http URL."""
    name, equals, url = text.partition("=")
    if not equals or "/" in name:
        name, url = "", text
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"found {text}; allowed is [NAME=]http://HOST:PORT[/PATH]")
    return Replica(name or parts.netloc, url if parts.path.strip("/") else f"{url.rstrip('/')}/metrics")


@contextlib.asynccontextmanager
async def watching(
    replicas: Sequence[Replica], interval_s: float = DEFAULT_INTERVAL_S, timeout_s: float = DEFAULT_TIMEOUT_S
) -> AsyncGenerator[Watched]:
    """Look at all replicas at the same moments, at the beginning, in every interval and once more at the end."""
    watched = Watched(tuple(replicas), [])
    if not replicas:
        yield watched
        return
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session:
        watched.looks.append(await _look(session, watched.replicas))
        watcher = asyncio.create_task(_go_on_looking(session, watched, interval_s))
        try:
            yield watched
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        watched.looks.append(await _look(session, watched.replicas))


async def _go_on_looking(session: aiohttp.ClientSession, watched: Watched, interval_s: float) -> None:
    next_s = time.perf_counter()
    while True:
        # A look that took longer than the interval skips the moments that it missed.
        next_s = max(next_s + interval_s, time.perf_counter())
        await asyncio.sleep(next_s - time.perf_counter())
        watched.looks.append(await _look(session, watched.replicas))


async def _look(session: aiohttp.ClientSession, replicas: Sequence[Replica]) -> Look:
    at_s = time.perf_counter()
    return Look(at_s, tuple(await asyncio.gather(*(_load(session, replica) for replica in replicas))))


async def _load(session: aiohttp.ClientSession, replica: Replica) -> ReplicaLoad:
    try:
        async with session.get(replica.metrics_url) as answer:
            return read_page(await answer.read()) if answer.ok else UNKNOWN
    except (aiohttp.ClientError, TimeoutError):
        return UNKNOWN
