"""Compares schedulers with the lower bound and with the clairvoyant search, on small fleets (`--bound`)."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import nan
from pathlib import Path
from random import Random
from statistics import fmean, geometric_mean

from rich.console import Console
from rich.table import Table
from vllm_mock.engine.speed import CARDS

from simulator.bound.instance import Instance
from simulator.bound.lower_bound import lower_bounds
from simulator.bound.search import OBJECTIVES, Schedule, search
from simulator.experiment.record import Outcome
from simulator.experiment.simulation import Simulation
from simulator.matrix.capacity import FleetCapacity, mean_request
from simulator.matrix.description import Matrix, Members, RelativeSteady, Shape, Split, scenario, selected, workload_on
from simulator.schedulers.registry import LEAST_REQUEST, PERFECT_INFORMATION, SCHEDULERS, WEIGHTED_SCORERS
from simulator.workload.distributions import Distribution, Exponential, Fixed, Lognormal, Mixture, Uniform
from simulator.workload.scenario import Generated, Scenario

REQUESTS = 30
"""Judgement: two or three generations of what the small fleet runs at once. There are 3^30 schedules."""

SEQUENCES = 5
"""Requests that a server of the small fleet runs at once. Larger fleets need more requests to fill."""

LONGEST_SHARE = 1.1
"""Least size of a server's cache, relative to the longest request. A request that does not fit never runs."""

LOAD = 1.0
"""Judgement: where neither everything waits nor nothing, the choice of a server matters most."""

SHAPES = ("steady-95", "tenants", "hot-prefix", "mixed-lengths", "heavy-tail", "one-slow", "unequal-caches")
"""Shapes of single requests. In sessions, arrivals depend on the schedule, so an instance cannot have them."""

SHOWN = ("DEFAULT", "PREFIX_CACHE", PERFECT_INFORMATION, WEIGHTED_SCORERS, LEAST_REQUEST)


@dataclass(frozen=True, slots=True)
class Compared:
    """The values of one objective on one instance."""

    lower_bound: float
    searched: float
    by_scheduler: dict[str, float]


def small_scenarios(matrix: Matrix, split: Split, pattern: str) -> Iterator[Scenario]:
    """`SHAPES` on every card of the split, named card/shape, as far as the name matches."""
    for card in matrix.cards_of(split):
        for shape in matrix.shapes:
            if shape.name in SHAPES and selected(f"{card}/{shape.name}", pattern):
                yield small_scenario(shape, card)


def small_scenario(shape: Shape, card: str) -> Scenario:
    """A shape on a small fleet of a card: three servers, with caches for a few requests, and about `REQUESTS` requests.

    Of a fleet of two kinds, two servers are of the first kind."""
    kinds = shape.fleet
    counts = (3,) if len(kinds) == 1 else (2, 1)
    workload = workload_on(card, shape)
    request = mean_request(workload)
    kv_tokens = CARDS[card].kv_tokens
    smallest = min(members.cache for members in kinds)
    cache = max(SEQUENCES * request.held, LONGEST_SHARE * longest_tokens(workload) / smallest) / kv_tokens
    fleet = tuple(
        Members(count=count, slowdown=members.slowdown, cache=members.cache * cache)
        for count, members in zip(counts, kinds, strict=True)
    )
    load = RelativeSteady(kind="steady", relative=LOAD)
    small = scenario(shape.model_copy(update={"load": load, "fleet": fleet}), card)
    assert isinstance(small.workload, Generated)
    capacity = FleetCapacity.of(small.fleet, small.workload)
    return small.model_copy(update={"warmup_s": 0.0, "duration_s": REQUESTS / (LOAD * capacity.saturated_rate_per_s)})


def longest_tokens(workload: Generated) -> float:
    """Length of the longest possible request."""
    prefix = longest(workload.prefixes.tokens) if workload.prefixes is not None else 0.0
    return prefix + longest(workload.input_tokens) + longest(workload.output_tokens)


def longest(distribution: Distribution) -> float:
    """The largest value of a distribution; the mean of an exponential one, which has none."""
    match distribution:
        case Fixed(value=value):
            return value
        case Uniform(high=high) | Lognormal(high=high):
            return high
        case Exponential(mean=mean):
            return mean
        case Mixture(common=common, rare=rare):
            return max(longest(common), longest(rare))


def schedule_of(scheduler: str, instance: Instance) -> Schedule | None:
    """The servers that a scheduler picks. None if it sheds or loses a request."""
    simulation = Simulation(instance.scenario, SCHEDULERS[scheduler], instance.seed, Path())
    simulation.run()
    if any(record.outcome is not Outcome.SERVED for record in simulation.records):
        return None
    numbers = {replica.address: number for number, replica in enumerate(simulation.fleet.slots)}
    return tuple(numbers[record.address] for record in simulation.records)


def compared(scenario: Scenario, seed: int) -> dict[str, Compared]:
    """The lower bound, the search and all schedulers, by objective."""
    instance = Instance(scenario, seed)
    schedules = {name: schedule for name in SCHEDULERS if (schedule := schedule_of(name, instance)) is not None}
    bounds = lower_bounds(instance)
    by_objective = {
        "TTFT mean": bounds.ttft_mean_s,
        "TTFT p90": bounds.ttft_p90_s,
        "e2e mean": bounds.e2e_mean_s,
        "e2e p90": bounds.e2e_p90_s,
    }
    found: dict[str, Compared] = {}
    for title, objective in OBJECTIVES.items():
        values = {name: objective(instance.latencies(schedule)) for name, schedule in schedules.items()}
        best = search(instance, objective, list(schedules.values()), Random(f"{seed} search"))
        found[title] = Compared(by_objective[title], objective(instance.latencies(best)), values)
    return found


Cells = dict[str, list[dict[str, Compared]]]
"""By scenario and seed: the comparison of every objective."""


def compare_all(
    scenarios: Sequence[Scenario], seeds: Sequence[int], jobs: int, progress: Callable[[int, int, str], None]
) -> Cells:
    """Compares on every scenario and seed. `progress` gets the numbers of ended instances and of all, and the last."""
    found: Cells = {scenario.name: [] for scenario in scenarios}
    with ProcessPoolExecutor(jobs) as pool:
        pending = [(each.name, pool.submit(compared, each, seed)) for each in scenarios for seed in seeds]
        for done, (name, future) in enumerate(pending, 1):
            found[name].append(future.result())
            progress(done, len(pending), name)
    return found


def print_bounds(found: Cells, console: Console) -> None:
    """Prints a table for each objective: means over seeds, as ratios to the search's result."""
    for title in OBJECTIVES:
        table = Table(
            title=f"\n{title}: as ratios to the result of the clairvoyant search. Lower bound <= optimum <= search.",
            title_justify="left",
            box=None,
            padding=(0, 1),
        )
        table.add_column("scenario", no_wrap=True)
        for column in ("search, s", "lower bound", *SHOWN):
            table.add_column(column, justify="right", no_wrap=True)
        rows = [_ratios([each[title] for each in of_seeds]) for of_seeds in found.values()]
        for name, row in zip(found, rows, strict=True):
            table.add_row(name, *(f"{value:.2f}" for value in row))
        means = [geometric_mean(column) for column in zip(*rows, strict=True)]
        table.add_row("geometric mean", "", *(f"{mean:.2f}" for mean in means[1:]))
        console.print(table)


def _ratios(of_seeds: Sequence[Compared]) -> list[float]:
    """The search's mean in seconds, then the lower bound and `SHOWN` relative to it. NaN where a scheduler sheds."""
    searched = fmean(each.searched for each in of_seeds)
    schedulers = [fmean(each.by_scheduler.get(name, nan) for each in of_seeds) for name in SHOWN]
    return [searched, *(value / searched for value in (fmean(each.lower_bound for each in of_seeds), *schedulers))]
