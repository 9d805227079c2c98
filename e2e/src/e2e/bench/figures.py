"""The bench's figures: each is measured in rounds, with the compared sides in turn, and most are ratios."""

import asyncio
import itertools
import json
import resource
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from e2e.bench.environment import Environment, bench_environment, scraping
from e2e.bench.load import Load, post, run_load
from e2e.bench.upstreams import STREAM_CHUNKS, answer_to

REPLICAS = 8
CLIENTS = 64
SMALL_BYTES, LARGE_BYTES = 2_000, 220_000
MIB = 1 << 20
UPSTREAM_RATES = {SMALL_BYTES: 0.16, LARGE_BYTES: 0.06}
"""Share of a plain Envoy's rate with llm-d-router 0.10, by prompt bytes. Measured: two cores for all processes."""

SCRAPED_ENDPOINTS = 100
SCRAPE_INTERVAL_S = 1.0
STREAMS_PER_S = 40
_SETTLE_S = 2.0
SOAK_SHARE = 3
"""Each of the soak's three parts lasts this multiple of a measurement's seconds."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table."""

    name: str
    value: float
    unit: str
    bound: float | None
    """Maximum of `value`, or its minimum if `at_least`. None: a reference for other figures, without a bound."""
    detail: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True, slots=True)
class Measured:
    """A run of load, and the CPU time that the measured process used."""

    load: Load
    cpu_s: float

    def cpu_per_request_s(self, idle_share: float = 0.0) -> float:
        """Mean CPU time of a request. `idle_share`: share of a core that the idle process uses, which is subtracted."""
        return (self.cpu_s - idle_share * self.load.elapsed_s) / len(self.load.latencies_s)


def cpu_s(pid: int) -> float:
    """CPU time that all threads of a process have used. Linux only."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def resident_bytes(pid: int) -> int:
    """Resident memory of a process. Linux only."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def cpu_share(pid: int, seconds: float) -> float:
    """Share of a core that a process uses over the next `seconds`. Linux only."""
    before_s, began_s = cpu_s(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    return (cpu_s(pid) - before_s) / (time.perf_counter() - began_s)


def completion(size: int) -> bytes:
    """A request of about `size` bytes. All words differ, so that all blocks of the prompt differ."""
    words = " ".join(f"word{number}" for number in range(size // 8))
    return post("/v1/completions", json.dumps({"model": "m", "prompt": words[: size - 40]}).encode())


def streamed() -> bytes:
    """A chat request of about SMALL_BYTES with a streamed response."""
    prompt = " ".join(f"word{number}" for number in range(SMALL_BYTES // 8))
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": True}
    return post("/v1/chat/completions", json.dumps(body).encode())


class Bench:
    """All figures but that of an idle picker. Each measurement has `rounds` rounds of `seconds` of load."""

    def __init__(self, environment: Environment, seconds: float, rounds: int, progress: Callable[[str], None]) -> None:
        self._environment = environment
        self._seconds = seconds
        self._rounds = rounds
        self._progress = progress

    async def figures(self) -> AsyncIterator[Figure]:
        environment, small = self._environment, completion(SMALL_BYTES)
        for port in (environment.plain, environment.picked, environment.bare, environment.constant):
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
        async for figure in self.routing_by_model():
            yield figure
        yield await self._bodies()
        yield await self._soak()

    async def routing_by_model(self) -> AsyncIterator[Figure]:
        """Yields what it costs to select the route by the body's model, beside the same route without that."""
        for size in (SMALL_BYTES, LARGE_BYTES):
            for figure in await self._by_model(size):
                yield figure

    async def _measure(self, port: int, request: bytes, clients: int, pid: int) -> Measured:
        before_s = cpu_s(pid)
        load = await run_load(port, request, clients, self._seconds)
        return Measured(load, cpu_s(pid) - before_s)

    async def _in_turn(self, what: str, *sides: tuple[int, bytes, int, int]) -> list[tuple[Measured, ...]]:
        """Measures all sides in each round, in reverse order in every second one.

        A side: (port, request, clients, pid).
        """
        rounds: list[tuple[Measured, ...]] = []
        for number in range(self._rounds):
            self._progress(f"{what}, round {number + 1} of {self._rounds}")
            way = -1 if number % 2 else 1
            measured = [await self._measure(*side) for side in sides[::way]]
            rounds.append(tuple(measured[::way]))
        return rounds

    async def _many_clients(self, small: bytes) -> list[Figure]:
        environment = self._environment
        pairs = await self._in_turn(
            f"{CLIENTS} clients",
            (environment.picked, small, CLIENTS, environment.picker_pid),
            (environment.bare, small, CLIENTS, environment.bare_pid),
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
                "on an idle machine, where grpc.aio takes 440 to 500; upstream's picker takes 523",
            ),
            Figure(f"p99 / p50 at {CLIENTS} clients", statistics.median(tails), "x", 5.0, f"{len(tails)} rounds"),
            Figure(f"errors at {CLIENTS} clients", float(errors), "", 0.0, ""),
        ]

    async def _streams(self, small: bytes) -> Figure:
        environment = self._environment
        pairs = await self._in_turn(
            f"responses of {STREAM_CHUNKS} chunks",
            (environment.picked, streamed(), CLIENTS, environment.picker_pid),
            (environment.picked, small, CLIENTS, environment.picker_pid),
        )
        # Fewer streams than requests run per second: each would carry a larger share of the scrapes' cost.
        idle = await cpu_share(environment.picker_pid, self._seconds)
        streams, plain = ([pair[index].cpu_per_request_s(idle) for pair in pairs] for index in (0, 1))
        ratio = statistics.median(a / b for a, b in zip(streams, plain, strict=True))
        detail = f"{_us(streams)} / {_us(plain)} us, without the {idle * 100:.1f} % of a core that scraping takes"
        return Figure(f"picker CPU a request / its own, {STREAM_CHUNKS} chunks streamed", ratio, "x", 1.2, detail)

    async def _slow_streams(self, small: bytes) -> Figure:
        """Streams at a rate so low that the picker is idle before each message, and plain responses at that rate."""
        environment, seconds = self._environment, 2 * self._seconds
        streams: list[float] = []
        plain: list[float] = []
        for number in range(self._rounds):
            self._progress(f"{STREAMS_PER_S} streams a second, round {number + 1} of {self._rounds}")
            for request, runs in ((streamed(), streams), (small, plain)):
                idle = await cpu_share(environment.picker_pid, self._seconds)
                before_s = cpu_s(environment.picker_pid)
                load = await run_load(environment.picked, request, STREAMS_PER_S, seconds, every_s=1.0)
                runs.append(Measured(load, cpu_s(environment.picker_pid) - before_s).cpu_per_request_s(idle))
        return Figure(
            f"picker CPU a stream of {STREAM_CHUNKS} chunks, {STREAMS_PER_S} a second",
            statistics.median(streams) * 1e6,
            "us",
            300.0,
            f"on an idle machine; {_us(plain)} us a plain response at that rate; upstream's picker takes 9,200",
        )

    async def _one_client(self, small: bytes) -> list[Figure]:
        environment = self._environment
        pairs = await self._in_turn(
            "one client",
            (environment.picked, small, 1, environment.picker_pid),
            (environment.plain, small, 1, environment.picker_pid),
        )

        def added(name: str, share: float, bound_ms: float, upstream_ms: float) -> Figure:
            picked, plain = (
                statistics.median(pair[index].load.percentile_s(share) for pair in pairs) * 1e3 for index in (0, 1)
            )
            detail = f"{picked:.2f} ms with, {plain:.2f} ms without; upstream's picker adds {upstream_ms} ms"
            return Figure(f"{name} added for one client", picked - plain, "ms", bound_ms, detail)

        return [added("p50", 0.5, 0.6, 1.2), added("p99", 0.99, 2.0, 10.8)]

    async def _against_no_picker(self, size: int) -> list[Figure]:
        """Share of the throughput without a picker that the same Envoy has with the picker.

        The second figure is the share with a picker that costs nearly nothing.
        """
        environment, request = self._environment, completion(size)
        name = f"{size // 1000} KB"
        ports = (environment.picked, environment.constant, environment.plain)
        rounds = await self._in_turn(
            f"{name} with and without a picker", *((port, request, CLIENTS, environment.envoy_pid) for port in ports)
        )
        runs = dict(zip(ports, zip(*rounds, strict=True), strict=True))

        def share(port: int) -> float:
            return statistics.median(
                a.load.rate / b.load.rate for a, b in zip(runs[port], runs[environment.plain], strict=True)
            )

        rates = {port: statistics.median(run.load.rate for run in measured) for port, measured in runs.items()}
        envoy = [
            _us([run.cpu_per_request_s() for run in runs[port]]) for port in (environment.picked, environment.plain)
        ]
        return [
            Figure(
                f"rate with a picker / without, {CLIENTS} clients, {name}",
                share(environment.picked),
                "x",
                0.5,
                f"{rates[environment.picked]:.0f} / {rates[environment.plain]:.0f} req/s; "
                f"Envoy {envoy[0]} / {envoy[1]} us a request; upstream's picker leaves {UPSTREAM_RATES[size]:.2f}",
                at_least=True,
            ),
            Figure(
                f"the same with a picker that responds with constant bytes, {name}",
                share(environment.constant),
                "x",
                None,
                f"{rates[environment.constant]:.0f} req/s: the limit that Envoy's own part sets here",
            ),
        ]

    async def _by_model(self, size: int) -> list[Figure]:
        environment, request, name = self._environment, completion(size), f"{size // 1000} KB"
        sides = ((environment.by_model, request), (environment.picked, request))
        one = await self._in_turn(
            f"one client by model, {name}", *((*side, 1, environment.envoy_pid) for side in sides)
        )
        many = await self._in_turn(
            f"clients by model, {name}", *((*side, CLIENTS, environment.envoy_pid) for side in sides)
        )
        by_model_ms, picked_ms = (
            statistics.median(pair[index].load.percentile_s(0.5) for pair in one) * 1e3 for index in (0, 1)
        )
        rates = [statistics.median(pair[index].load.rate for pair in many) for index in (0, 1)]
        cpu = [_us([pair[index].cpu_per_request_s() for pair in many]) for index in (0, 1)]
        return [
            Figure(
                f"p50 added by routing by model, one client, {name}",
                by_model_ms - picked_ms,
                "ms",
                0.15,
                f"{by_model_ms:.2f} ms with, {picked_ms:.2f} ms without",
            ),
            Figure(
                f"rate by model / without, {CLIENTS} clients, {name}",
                statistics.median(a.load.rate / b.load.rate for a, b in many),
                "x",
                0.95,
                f"{rates[0]:.0f} / {rates[1]:.0f} req/s; Envoy {cpu[0]} / {cpu[1]} us a request",
                at_least=True,
            ),
        ]

    async def _large_prompts(self, small: bytes) -> Figure:
        environment = self._environment
        pairs = await self._in_turn(
            "220 KB prompts",
            (environment.picked, completion(LARGE_BYTES), CLIENTS, environment.picker_pid),
            (environment.picked, small, CLIENTS, environment.picker_pid),
        )
        large, rate = (statistics.median(pair[index].load.rate for pair in pairs) for index in (0, 1))
        plain = [
            await run_load(environment.plain, request, CLIENTS, self._seconds)
            for request in (completion(LARGE_BYTES), small)
        ]
        detail = (
            f"{large:.0f} / {rate:.0f} req/s; {plain[0].rate / plain[1].rate:.2f} without a picker; "
            f"picker {_us([pair[0].cpu_per_request_s() for pair in pairs])} us a request"
        )
        return Figure("rate of 220 KB prompts / 2 KB's", large / rate, "x", 1 / 3, detail, at_least=True)

    async def _bodies(self) -> Figure:
        """Number of three large bodies that arrive unchanged."""
        whole = 0
        for size in (1, 5, 15):
            self._progress(f"a body of {size} MiB")
            start, end = b'{"model": "m", "prompt": "', b'"}'
            body = start + b"x" * (size * MIB - len(start) - len(end)) + end
            load = await run_load(self._environment.picked, post("/v1/completions", body), 1, 0.01)
            whole += load.last_body == answer_to(body)
        return Figure("bodies of 1, 5 and 15 MiB that pass whole", float(whole), "of 3", 3.0, "", at_least=True)

    async def _soak(self) -> Figure:
        """Growth of the picker's memory after its prefix index is full, under prompts that are all new."""
        environment = self._environment
        numbers = itertools.count()
        request = completion(LARGE_BYTES)
        head, tail = request.split(b"word0 ", 1)

        def new_prompt() -> bytes:
            return b"%b%05d %b" % (head, next(numbers) % 100_000, tail)

        seconds = SOAK_SHARE * self._seconds
        self._progress("memory, while the index fills")
        await run_load(environment.picked, new_prompt, CLIENTS, seconds)
        before = resident_bytes(environment.picker_pid)
        self._progress("memory, after the index is full")
        large = await run_load(environment.picked, new_prompt, CLIENTS, seconds)
        small = await run_load(environment.picked, completion(SMALL_BYTES), CLIENTS, seconds)
        grown = resident_bytes(environment.picker_pid) / before - 1
        count = len(large.latencies_s) + len(small.latencies_s)
        detail = f"{before / MIB:.0f} MiB before; {len(large.latencies_s)} prompts of 220 KB, all new; {count} requests"
        return Figure("picker memory grown under load", 100 * grown, "%", 5.0, detail)


async def idle_figure(seconds: float, progress: Callable[[str], None]) -> Figure:
    """Cost of scraping in a picker without requests."""
    shares: list[float] = []
    for endpoints in (1, SCRAPED_ENDPOINTS):
        progress(f"endpoints scraped: {endpoints}")
        async with scraping(endpoints, SCRAPE_INTERVAL_S) as pid:
            await asyncio.sleep(_SETTLE_S)
            shares.append(await cpu_share(pid, max(seconds, 2 * SCRAPE_INTERVAL_S)))
    one, share = shares
    scrape_us = (share - one) / (SCRAPED_ENDPOINTS - 1) * SCRAPE_INTERVAL_S * 1e6
    detail = f"once a second; {scrape_us:.0f} us a scrape; a picker with one endpoint uses {one * 100:.1f} %"
    return Figure(f"a core's share for scraping {SCRAPED_ENDPOINTS} endpoints", share * 100, "%", 3.0, detail)


async def all_figures(seconds: float, rounds: int, progress: Callable[[str], None]) -> AsyncIterator[Figure]:
    """Yields each figure as soon as it is measured."""
    progress("starting")
    async with bench_environment(REPLICAS) as environment:
        async for figure in Bench(environment, seconds, rounds, progress).figures():
            yield figure
    yield await idle_figure(seconds, progress)


async def model_figures(seconds: float, rounds: int, progress: Callable[[str], None]) -> AsyncIterator[Figure]:
    """Yields the figures of routing by model alone."""
    progress("starting")
    async with bench_environment(REPLICAS) as environment:
        async for figure in Bench(environment, seconds, rounds, progress).routing_by_model():
            yield figure


def _us(values_s: list[float]) -> str:
    return f"{statistics.median(values_s) * 1e6:.0f}"
