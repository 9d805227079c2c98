"""Samples every replica's /metrics at an interval, while something else runs."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from benchmark.replicas.page import UNKNOWN, ReplicaLoad, read_page

DEFAULT_INTERVAL_S = 0.5
"""Judgement: KV cache use changes by about a percent in this time, and a page costs a server about a millisecond."""

DEFAULT_TIMEOUT_S = 1.0
"""Judgement: vLLM under load answers within tens of ms, and a later answer does not describe the moment."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A model server, and the URL of its metrics."""

    name: str
    metrics_url: str


@dataclass(frozen=True, slots=True)
class MetricsSample:
    """The metrics of all replicas at one moment."""

    at_s: float
    """Time on the clock `time.perf_counter`."""
    loads: tuple[ReplicaLoad, ...]
    """Loads in the order of the replicas; UNKNOWN for one that did not answer in time."""


@dataclass(frozen=True, slots=True)
class Recording:
    """The samples of a run. They grow while `record_metrics` is active."""

    replicas: tuple[Replica, ...]
    samples: list[MetricsSample]


def replica_at(text: str) -> Replica:
    """Parses `[NAME=]URL`. The default path is /metrics, the default name is host and port. Raises ValueError if it is
    no http URL."""
    name, equals, url = text.partition("=")
    if not equals or "/" in name:
        name, url = "", text
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"found {text}; allowed is [NAME=]http://HOST:PORT[/PATH]")
    return Replica(name or parts.netloc, url if parts.path.strip("/") else f"{url.rstrip('/')}/metrics")


@contextlib.asynccontextmanager
async def record_metrics(
    replicas: Sequence[Replica], interval_s: float = DEFAULT_INTERVAL_S, timeout_s: float = DEFAULT_TIMEOUT_S
) -> AsyncGenerator[Recording]:
    """Samples all replicas at the same moments: at the start, in every interval, and once more at the end."""
    recording = Recording(tuple(replicas), [])
    if not replicas:
        yield recording
        return
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session:
        recording.samples.append(await _scrape_all(session, recording.replicas))
        sampler = asyncio.create_task(_keep_sampling(session, recording, interval_s))
        try:
            yield recording
        finally:
            sampler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sampler
        recording.samples.append(await _scrape_all(session, recording.replicas))


async def _keep_sampling(session: aiohttp.ClientSession, recording: Recording, interval_s: float) -> None:
    next_s = time.perf_counter()
    while True:
        # If a sample takes longer than the interval, the missed moments are skipped.
        next_s = max(next_s + interval_s, time.perf_counter())
        await asyncio.sleep(next_s - time.perf_counter())
        recording.samples.append(await _scrape_all(session, recording.replicas))


async def _scrape_all(session: aiohttp.ClientSession, replicas: Sequence[Replica]) -> MetricsSample:
    at_s = time.perf_counter()
    return MetricsSample(at_s, tuple(await asyncio.gather(*(_scrape(session, replica) for replica in replicas))))


async def _scrape(session: aiohttp.ClientSession, replica: Replica) -> ReplicaLoad:
    try:
        async with session.get(replica.metrics_url) as answer:
            return read_page(await answer.read()) if answer.ok else UNKNOWN
    except (aiohttp.ClientError, TimeoutError):
        return UNKNOWN
