"""A clairvoyant search for a good schedule: it knows all arrivals and lengths, and evaluates with the engine.

It is not optimal. Its result is an upper bound on the optimum, as the schedules of all greedy schedulers are.
"""

from collections.abc import Callable, Sequence
from random import Random
from statistics import fmean

import numpy as np

from simulator.bound.instance import Instance, Latency

BEAM_WIDTH = 6
"""Judgement: the local search improves what a narrow beam misses."""

SWAPS = 100
"""Pairs of requests that a round of the local search tries to swap. Judgement."""

RESTARTS = 2
"""Times that the local search starts again, from its result with some requests moved at random. Judgement."""

MOVED_AT_RESTART = 0.15
"""Share of the requests that are moved at random before a restart. Judgement."""

Objective = Callable[[Sequence[Latency]], float]
Schedule = tuple[int, ...]
"""The server of each request, in the order of arrival."""

OBJECTIVES: dict[str, Objective] = {
    "TTFT mean": lambda latencies: fmean(latency.ttft_s for latency in latencies),
    "TTFT p90": lambda latencies: float(np.quantile([latency.ttft_s for latency in latencies], 0.9)),
    "e2e mean": lambda latencies: fmean(latency.e2e_s for latency in latencies),
    "e2e p90": lambda latencies: float(np.quantile([latency.e2e_s for latency in latencies], 0.9)),
}


def search(instance: Instance, objective: Objective, known: Sequence[Schedule], rng: Random) -> Schedule:
    """The best schedule found. It is at least as good as the `known` ones, and as good as beam search's."""

    def cost(schedule: Schedule) -> float:
        return objective(instance.latencies(schedule))

    best = min([beam_search(instance, objective), *known], key=cost)
    best = _improved(instance, best, cost, rng)
    for _ in range(RESTARTS):
        servers = range(len(instance.servers))
        start = tuple(rng.choice(servers) if rng.random() < MOVED_AT_RESTART else server for server in best)
        best = min(best, _improved(instance, start, cost, rng), key=cost)
    return best


def beam_search(instance: Instance, objective: Objective) -> Schedule:
    """Assigns one request after the other, and keeps the best `BEAM_WIDTH` schedules of those that have arrived."""
    beam: list[Schedule] = [()]
    for _ in instance.arrivals:
        longer = [(*schedule, server) for schedule in beam for server in range(len(instance.servers))]
        costs = {schedule: objective(instance.latencies(schedule)) for schedule in longer}
        beam = sorted(longer, key=costs.__getitem__)[:BEAM_WIDTH]
    return beam[0]


def _improved(instance: Instance, start: Schedule, cost: Callable[[Schedule], float], rng: Random) -> Schedule:
    """A schedule that no move of one request improves, nor a round of `SWAPS` swaps."""
    best, least = start, cost(start)
    servers, numbers = range(len(instance.servers)), range(len(start))
    improving = True
    while improving:
        improving = False
        moves = [(number, server) for number in numbers for server in servers]
        rng.shuffle(moves)
        swaps = [tuple(rng.choices(numbers, k=2)) for _ in range(SWAPS)]
        for change in (*({number: server} for number, server in moves), *swaps):
            if isinstance(change, tuple):
                first, second = change
                change = {first: best[second], second: best[first]}
            changed = tuple(change.get(number, server) for number, server in enumerate(best))
            if changed != best and (found := cost(changed)) < least * (1 - 1e-9):
                best, least, improving = changed, found, True
    return best
