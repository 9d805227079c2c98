"""The figures: each measured in rounds, what is compared always in turn, and told as a ratio."""

import asyncio
import itertools
import json
import resource
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from e2e.bench.environment import Stage, scraping, staged
from e2e.bench.load import Load, post, run_load
from e2e.bench.upstreams import STREAM_CHUNKS, answer_to

REPLICAS = 8
CLIENTS = 64
SMALL_BYTES, LARGE_BYTES = 2_000, 220_000
MIB = 1 << 20
UPSTREAM_RATES = {SMALL_BYTES: 0.16, LARGE_BYTES: 0.06}
"""What llm-d-router 0.10 left of a plain Envoy's rate, on two cores shared with everything else, as here."""

SCRAPED_ENDPOINTS = 100
SCRAPE_INTERVAL_S = 1.0
STREAMS_PER_S = 40
_SETTLE_S = 2.0
SOAK_SHARE = 3
"""Of a measurement's seconds, for each of the soak's three parts."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str
    bound: float | None
    """`value` is to be at most this, or at least where `at_least`; None: it is there to compare others with."""
    detail: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True, slots=True)
class Measured:
    """A run of load, and what it cost the process that was looked at."""

    load: Load
    cpu_s: float

    def cpu_per_request_s(self, idle_share: float = 0.0) -> float:
        """`idle_share`: of a core, what the process uses while nothing is asked of it, which is left out."""
        return (self.cpu_s - idle_share * self.load.elapsed_s) / len(self.load.latencies_s)


def cpu_s(pid: int) -> float:
    """CPU time that all threads of a process have had. Linux only."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def resident_bytes(pid: int) -> int:
    """Memory of a process. Linux only."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def cpu_share(pid: int, seconds: float) -> float:
    """Of a core, what a process uses over the next `seconds`."""
    before_s, began_s = cpu_s(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    return (cpu_s(pid) - before_s) / (time.perf_counter() - began_s)


def completion(size: int) -> bytes:
    """A request of about `size` bytes, of words that differ so that every block of the prompt is its own."""
    words = " ".join(f"word{number}" for number in range(size // 8))
    return post("/v1/completions", json.dumps({"model": "m", "prompt": words[: size - 40]}).encode())


def streamed() -> bytes:
    prompt = " ".join(f"word{number}" for number in range(SMALL_BYTES // 8))
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": True}
    return post("/v1/chat/completions", json.dumps(body).encode())


class Bench:
    """`seconds` of load for each measurement, `rounds` of each."""

    def __init__(self, stage: Stage, seconds: float, rounds: int, progress: Callable[[str], None]) -> None:
        self._stage = stage
        self._seconds = seconds
        self._rounds = rounds
        self._progress = progress

    async def figures(self) -> AsyncIterator[Figure]:
        stage, small = self._stage, completion(SMALL_BYTES)
        for port in (stage.plain, stage.picked, stage.bare, stage.constant):
            await run_load(port, small, CLIENTS, self._seconds / 2)
        for figure in await self._many_clients(small):
            yield figure
        yield await self._streams(small)
        yield await self._slow_streams(small)
        for figure in await self._one_client(small):
            yield figure
        yield await self._large_prompts(small)
        for size in (SMALL_BYTES, LARGE_BYTES):
            for figure in await self._against_no_picker(size):
                yield figure
        yield await self._bodies()
        yield await self._soak()

    async def _measure(self, port: int, request: bytes, clients: int, pid: int) -> Measured:
        before_s = cpu_s(pid)
        load = await run_load(port, request, clients, self._seconds)
        return Measured(load, cpu_s(pid) - before_s)

    async def _in_turn(self, what: str, *sides: tuple[int, bytes, int, int]) -> list[tuple[Measured, ...]]:
        """All measured in each round, in reverse order in every second: (port, request, clients, pid)."""
        rounds: list[tuple[Measured, ...]] = []
        for number in range(self._rounds):
            self._progress(f"{what}, round {number + 1} of {self._rounds}")
            way = -1 if number % 2 else 1
            measured = [await self._measure(*side) for side in sides[::way]]
            rounds.append(tuple(measured[::way]))
        return rounds

    async def _many_clients(self, small: bytes) -> list[Figure]:
        stage = self._stage
        pairs = await self._in_turn(
            f"{CLIENTS} clients",
            (stage.picked, small, CLIENTS, stage.picker_pid),
            (stage.bare, small, CLIENTS, stage.bare_pid),
        )
        own, bare = ([pair[index].cpu_per_request_s() for pair in pairs] for index in (0, 1))
        tails = [pair[0].load.percentile_s(0.99) / pair[0].load.percentile_s(0.5) for pair in pairs]
        errors = sum(measured.load.errors for pair in pairs for measured in pair)
        rates = [statistics.median(pair[index].load.rate for pair in pairs) for index in (0, 1)]
        return [
            Figure(
                f"picker CPU a request / bare grpc.aio's, {CLIENTS} clients, 2 KB",
                statistics.median(a / b for a, b in zip(own, bare, strict=True)),
                "x",
                0.2,
                f"{_us(own)} / {_us(bare)} us; {rates[0]:.0f} / {rates[1]:.0f} req/s",
            ),
            Figure(
                f"picker CPU a request, {CLIENTS} clients, 2 KB",
                statistics.median(own) * 1e6,
                "us",
                100.0,
                "on a quiet machine, where grpc.aio takes 440 to 500; upstream's picker takes 523",
            ),
            Figure(f"p99 / p50 at {CLIENTS} clients", statistics.median(tails), "x", 5.0, f"{len(tails)} rounds"),
            Figure(f"errors at {CLIENTS} clients", float(errors), "", 0.0, ""),
        ]

    async def _streams(self, small: bytes) -> Figure:
        stage = self._stage
        pairs = await self._in_turn(
            f"answers of {STREAM_CHUNKS} chunks",
            (stage.picked, streamed(), CLIENTS, stage.picker_pid),
            (stage.picked, small, CLIENTS, stage.picker_pid),
        )
        # Streams are fewer a second, and each would carry more of what the scrapes cost meanwhile.
        idle = await cpu_share(stage.picker_pid, self._seconds)
        streams, plain = ([pair[index].cpu_per_request_s(idle) for pair in pairs] for index in (0, 1))
        ratio = statistics.median(a / b for a, b in zip(streams, plain, strict=True))
        detail = f"{_us(streams)} / {_us(plain)} us, without the {idle * 100:.1f} % of a core that scraping takes"
        return Figure(f"picker CPU a request / its own, {STREAM_CHUNKS} chunks streamed", ratio, "x", 1.2, detail)

    async def _slow_streams(self, small: bytes) -> Figure:
        """Streams so seldom that each message finds the picker asleep, and plain answers as seldom."""
        stage, seconds = self._stage, 2 * self._seconds
        streams: list[float] = []
        plain: list[float] = []
        for number in range(self._rounds):
            self._progress(f"{STREAMS_PER_S} streams a second, round {number + 1} of {self._rounds}")
            for request, runs in ((streamed(), streams), (small, plain)):
                idle = await cpu_share(stage.picker_pid, self._seconds)
                before_s = cpu_s(stage.picker_pid)
                load = await run_load(stage.picked, request, STREAMS_PER_S, seconds, every_s=1.0)
                runs.append(Measured(load, cpu_s(stage.picker_pid) - before_s).cpu_per_request_s(idle))
        return Figure(
            f"picker CPU a stream of {STREAM_CHUNKS} chunks, {STREAMS_PER_S} a second",
            statistics.median(streams) * 1e6,
            "us",
            300.0,
            f"on a quiet machine; {_us(plain)} us a plain answer at that rate; upstream's picker takes 9,200",
        )

    async def _one_client(self, small: bytes) -> list[Figure]:
        stage = self._stage
        pairs = await self._in_turn(
            "one client",
            (stage.picked, small, 1, stage.picker_pid),
            (stage.plain, small, 1, stage.picker_pid),
        )

        def added(name: str, share: float, bound_ms: float, upstream_ms: float) -> Figure:
            picked, plain = (
                statistics.median(pair[index].load.percentile_s(share) for pair in pairs) * 1e3 for index in (0, 1)
            )
            detail = f"{picked:.2f} ms with, {plain:.2f} ms without; upstream's picker adds {upstream_ms} ms"
            return Figure(f"{name} added for one client", picked - plain, "ms", bound_ms, detail)

        return [added("p50", 0.5, 0.6, 1.2), added("p99", 0.99, 2.0, 10.8)]

    async def _against_no_picker(self, size: int) -> list[Figure]:
        """How much of the throughput is left when the same Envoy asks the picker about each request, and how much when
        it asks one that costs nearly nothing."""
        stage, request = self._stage, completion(size)
        name = f"{size // 1000} KB"
        ports = (stage.picked, stage.constant, stage.plain)
        rounds = await self._in_turn(
            f"{name} with and without a picker", *((port, request, CLIENTS, stage.envoy_pid) for port in ports)
        )
        runs = dict(zip(ports, zip(*rounds, strict=True), strict=True))

        def left(port: int) -> float:
            return statistics.median(
                a.load.rate / b.load.rate for a, b in zip(runs[port], runs[stage.plain], strict=True)
            )

        rates = {port: statistics.median(each.load.rate for each in measured) for port, measured in runs.items()}
        envoy = [_us([each.cpu_per_request_s() for each in runs[port]]) for port in (stage.picked, stage.plain)]
        return [
            Figure(
                f"rate with a picker / without, {CLIENTS} clients, {name}",
                left(stage.picked),
                "x",
                0.5,
                f"{rates[stage.picked]:.0f} / {rates[stage.plain]:.0f} req/s; "
                f"Envoy {envoy[0]} / {envoy[1]} us a request; upstream's picker leaves {UPSTREAM_RATES[size]:.2f}",
                at_least=True,
            ),
            Figure(
                f"the same with one that answers constant bytes, {name}",
                left(stage.constant),
                "x",
                None,
                f"{rates[stage.constant]:.0f} req/s: what Envoy's own part of asking leaves here",
            ),
        ]

    async def _large_prompts(self, small: bytes) -> Figure:
        stage = self._stage
        pairs = await self._in_turn(
            "220 KB prompts",
            (stage.picked, completion(LARGE_BYTES), CLIENTS, stage.picker_pid),
            (stage.picked, small, CLIENTS, stage.picker_pid),
        )
        large, rate = (statistics.median(pair[index].load.rate for pair in pairs) for index in (0, 1))
        plain = [await run_load(stage.plain, each, CLIENTS, self._seconds) for each in (completion(LARGE_BYTES), small)]
        detail = (
            f"{large:.0f} / {rate:.0f} req/s; {plain[0].rate / plain[1].rate:.2f} without a picker; "
            f"picker {_us([pair[0].cpu_per_request_s() for pair in pairs])} us a request"
        )
        return Figure("rate of 220 KB prompts / 2 KB's", large / rate, "x", 1 / 3, detail, at_least=True)

    async def _bodies(self) -> Figure:
        """How many of three large bodies arrive as they were sent."""
        whole = 0
        for size in (1, 5, 15):
            self._progress(f"a body of {size} MiB")
            start, end = b'{"model": "m", "prompt": "', b'"}'
            body = start + b"x" * (size * MIB - len(start) - len(end)) + end
            load = await run_load(self._stage.picked, post("/v1/completions", body), 1, 0.01)
            whole += load.last_body == answer_to(body)
        return Figure("bodies of 1, 5 and 15 MiB that pass whole", float(whole), "of 3", 3.0, "", at_least=True)

    async def _soak(self) -> Figure:
        """What the picker's memory grows by once it remembers as many prompts as it may, under prompts that are all
        new."""
        stage = self._stage
        numbers = itertools.count()
        request = completion(LARGE_BYTES)
        head, tail = request.split(b"word0 ", 1)

        def fresh() -> bytes:
            return b"%b%05d %b" % (head, next(numbers) % 100_000, tail)

        seconds = SOAK_SHARE * self._seconds
        self._progress("memory, while it fills")
        await run_load(stage.picked, fresh, CLIENTS, seconds)
        before = resident_bytes(stage.picker_pid)
        self._progress("memory, once it is full")
        large = await run_load(stage.picked, fresh, CLIENTS, seconds)
        small = await run_load(stage.picked, completion(SMALL_BYTES), CLIENTS, seconds)
        grown = resident_bytes(stage.picker_pid) / before - 1
        count = len(large.latencies_s) + len(small.latencies_s)
        detail = f"{before / MIB:.0f} MiB before; {len(large.latencies_s)} prompts of 220 KB, all new; {count} requests"
        return Figure("picker memory grown under load", 100 * grown, "%", 5.0, detail)


async def idle_figure(seconds: float, progress: Callable[[str], None]) -> Figure:
    """What scraping costs a picker that has nothing else to do."""
    shares: list[float] = []
    for endpoints in (1, SCRAPED_ENDPOINTS):
        progress(f"endpoints scraped: {endpoints}")
        async with scraping(endpoints, SCRAPE_INTERVAL_S) as pid:
            await asyncio.sleep(_SETTLE_S)
            shares.append(await cpu_share(pid, max(seconds, 2 * SCRAPE_INTERVAL_S)))
    one, share = shares
    scrape_us = (share - one) / (SCRAPED_ENDPOINTS - 1) * SCRAPE_INTERVAL_S * 1e6
    detail = (
        f"once a second; {scrape_us:.0f} us a scrape beside the {one * 100:.1f} % that a picker with one endpoint takes"
    )
    return Figure(f"a core's share for scraping {SCRAPED_ENDPOINTS} endpoints", share * 100, "%", 3.0, detail)


async def all_figures(seconds: float, rounds: int, progress: Callable[[str], None]) -> AsyncIterator[Figure]:
    """Each figure once it is known."""
    progress("starting")
    async with staged(REPLICAS) as stage:
        async for figure in Bench(stage, seconds, rounds, progress).figures():
            yield figure
    yield await idle_figure(seconds, progress)


def _us(values_s: list[float]) -> str:
    return f"{statistics.median(values_s) * 1e6:.0f}"
