"""Lower bounds on the latencies of an instance, for any schedule. They relax what a server may do.

**A request alone.** A request takes at least its time on the best idle server that has cached all that any earlier
request shares with it. This bounds every request, so it also bounds quantiles.

**All requests together.** Split each step of a server into its base time and its work: prompt tokens, decoding
sequences, context. Let k be the number of requests at a server. The sum of their latencies is the integral of k over
time, and that is the one over base times plus the one over work.

- Over base times, each request is present in all of its steps: at least base times its number of steps.
- Over work, the integral is the total flow time on a clock that runs only during work. On that clock, the gaps between
  arrivals are shorter than in real time. Longer gaps reduce the least total flow time: requests that are behind use the
  additional time, and the later ones keep their order. So the flow time on a server that only works, with the real
  arrivals, is a lower bound.
- The servers together do at most what one server of the sum of their speeds does. There, the shortest remaining
  processing time first (SRPT) gives the least total flow time (Schrage 1968).
- A request works on one server at a time. So its work takes at least its time at the speed of the fastest server.
  With that, C >= M + p / 2 for its mean busy time M, its end C and its time p. The least sum of M on the one server of
  all speeds is that of preemptive shortest processing time first (Goemans et al. 2002).

Each of the two gives a bound, and so does each request alone. The largest counts. For first tokens, the same holds with
the work and the steps of the prefill only.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from vllm_mock.engine.messages import EngineConfig
from vllm_mock.engine.step_time import StepTime

from simulator.bound.instance import NETWORK_DELAYS, Arrival, Instance
from simulator.workload.content import picker_blocks


@dataclass(frozen=True, slots=True)
class Task:
    """The least that a server spends on a request: steps of a base time each, and work."""

    steps: int
    work_s: float


@dataclass(frozen=True, slots=True)
class LowerBounds:
    """No schedule is below these."""

    ttft_mean_s: float
    ttft_p90_s: float
    e2e_mean_s: float
    e2e_p90_s: float


def lower_bounds(instance: Instance) -> LowerBounds:
    """The bounds of an instance."""
    servers = [instance.config(number) for number in range(len(instance.servers))]
    size = servers[0][0].block_size
    cached = _cacheable_tokens(instance.arrivals, size)
    releases = [arrival.at_s + instance.scenario.network_s for arrival in instance.arrivals]
    delay_s = (1 + NETWORK_DELAYS) * instance.scenario.network_s

    def bound(task: Callable[[EngineConfig, StepTime, Arrival, int], Task]) -> tuple[float, float]:
        tasks = [
            [task(config, time, arrival, found) for config, time in servers]
            for arrival, found in zip(instance.arrivals, cached, strict=True)
        ]
        bases = [time.base_s for _, time in servers]
        alone = [
            delay_s + min(base_s * on.steps + on.work_s for base_s, on in zip(bases, of, strict=True)) for of in tasks
        ]
        together = delay_s + _together(tasks, releases, min(bases)) / len(tasks)
        return max(float(np.mean(alone)), together), float(np.quantile(alone, 0.9))

    return LowerBounds(*bound(_prefill), *bound(_whole))


def _cacheable_tokens(arrivals: Sequence[Arrival], block_size: int) -> list[int]:
    """For each request, the tokens of its prompt that an earlier one shares, in full blocks. The last token of a prompt
    is always computed."""
    blocks = [
        picker_blocks(each.turn.content, each.turn.prompt_tokens + each.turn.output_tokens, block_size)
        for each in arrivals
    ]
    found: list[int] = []
    for number, arrival in enumerate(arrivals):
        own = blocks[number][: (arrival.turn.prompt_tokens - 1) // block_size]
        shared = (
            sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(own, earlier, strict=False)))
            for earlier in blocks[:number]
        )
        found.append(block_size * max(shared, default=0))
    return found


def _prefill(config: EngineConfig, time: StepTime, arrival: Arrival, cached: int) -> Task:
    """Up to the first token."""
    prompt = arrival.turn.prompt_tokens
    chunks = range(cached, prompt, config.max_num_batched_tokens)
    read = sum(chunks)
    # The last token counts as a decoding sequence if it is alone in its chunk, which may cost less.
    saved_s = max(0.0, time.per_prefill_token_s - time.per_decode_s)
    work_s = (prompt - cached) * time.per_prefill_token_s - saved_s + read * time.per_context_token_s
    return Task(len(chunks), work_s)


def _whole(config: EngineConfig, time: StepTime, arrival: Arrival, cached: int) -> Task:
    """Up to the last token. A decoding step reads the tokens before the newest one."""
    prefill = _prefill(config, time, arrival, cached)
    prompt, decoded = arrival.turn.prompt_tokens, arrival.turn.output_tokens - 1
    read = decoded * prompt + decoded * (decoded - 1) // 2
    work_s = decoded * time.per_decode_s + read * time.per_context_token_s
    return Task(prefill.steps + decoded, prefill.work_s + work_s)


def _together(tasks: Sequence[Sequence[Task]], releases: Sequence[float], base_s: float) -> float:
    """A bound on the sum of the latencies from the release. `tasks` is by request and server."""
    # The works of a request on the fastest server, and speeds such that no server does any work faster than this.
    works = [min(on.work_s for on in of) for of in tasks]
    speeds = [
        max((work / of[server].work_s if of[server].work_s else 1.0) for work, of in zip(works, tasks, strict=True))
        for server in range(len(tasks[0]))
    ]
    speed = sum(speeds)
    pooled = [work / speed for work in works]
    shared = srpt_flow_s(releases, pooled)
    busy = mean_busy_flow_s(releases, pooled) + sum(works) / 2
    return base_s * sum(min(on.steps for on in of) for of in tasks) + max(shared, busy, sum(works))


def srpt_flow_s(releases: Sequence[float], works: Sequence[float]) -> float:
    """The least sum of times from release to end on one server that may interrupt."""
    flow_s = 0.0
    for number, (_, end_s) in enumerate(_preemptive(releases, works, by_remaining=True)):
        flow_s += end_s - releases[number]
    return flow_s


def mean_busy_flow_s(releases: Sequence[float], works: Sequence[float]) -> float:
    """The least sum of times from release to the mean of the time in which a request is worked on."""
    return sum(
        busy_s - release
        for (busy_s, _), release in zip(_preemptive(releases, works, by_remaining=False), releases, strict=True)
    )


def _preemptive(releases: Sequence[float], works: Sequence[float], by_remaining: bool) -> list[tuple[float, float]]:
    """The mean busy time and the end of each request. The least remaining work goes first, or the least work."""
    order = sorted(range(len(works)), key=lambda number: releases[number])
    ready: list[tuple[float, int]] = []
    left = list(works)
    integrals = [0.0] * len(works)
    ends = list(releases)
    now_s, following = 0.0, 0
    while ready or following < len(order):
        if not ready:
            now_s = max(now_s, releases[order[following]])
        while following < len(order) and releases[order[following]] <= now_s:
            number = order[following]
            heapq.heappush(ready, (works[number], number))
            following += 1
        _, number = heapq.heappop(ready)
        until_s = releases[order[following]] if following < len(order) else np.inf
        spent_s = min(left[number], until_s - now_s)
        integrals[number] += spent_s * (now_s + spent_s / 2)
        now_s += spent_s
        left[number] -= spent_s
        ends[number] = now_s
        if left[number] > 1e-12:
            heapq.heappush(ready, (left[number] if by_remaining else works[number], number))
    return [
        (integral / work if work else end_s, end_s)
        for integral, work, end_s in zip(integrals, works, ends, strict=True)
    ]
