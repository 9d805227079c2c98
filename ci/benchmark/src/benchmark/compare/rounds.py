"""Running the targets in turns."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmark.load.pace import Pace
from benchmark.load.run import DEFAULT_TIMEOUT_S, Progress, run_load, warm_up
from benchmark.load.samples import LoadResult
from benchmark.load.target import Target
from benchmark.replicas.spread import Spread, kv_spread, prefix_hit_rate
from benchmark.replicas.watch import DEFAULT_INTERVAL_S, Replica, Watched, watching
from benchmark.results.summary import Summary, summarise
from benchmark.workload import Workload

TOLERATED_OF_THE_FIRST = 0.01
"""Share of the first contender's requests that may fail. It is what others are measured by, and need not be perfect:
the tutorial's plain route sends some on connections that vLLM closes just then, after five idle seconds."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A target under a short name."""

    name: str
    target: Target


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compare, and under what."""

    contenders: tuple[Contender, ...]
    """At least two; ratios are to the first."""
    workload: Callable[[int], Workload]
    """By seed."""
    pace: Pace
    rounds: int = 4
    """Even, so that each contender goes first equally often."""
    seed: int = 0
    """Of the first round; each has its own."""
    replicas: tuple[Replica, ...] = ()
    interval_s: float = DEFAULT_INTERVAL_S
    """Between two looks at the replicas."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    warmups: int = 0
    """Requests to each contender before the first round, not counted."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One contender's part of a round."""

    contender: Contender
    result: LoadResult
    summary: Summary
    watched: Watched
    """The replicas, while it ran."""
    kv_spread: Spread
    prefix_hit_rate: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that was measured."""

    plan: Plan
    rounds: tuple[tuple[Leg, ...], ...]
    """Legs in the order of the contenders, in whatever order they ran."""

    def legs_of(self, contender: int) -> tuple[Leg, ...]:
        """Of the contender at this place, round by round."""
        return tuple(legs[contender] for legs in self.rounds)

    @property
    def failed_requests(self) -> int:
        return sum(map(self.failed_of, range(len(self.plan.contenders))))

    def failed_of(self, contender: int) -> int:
        """Requests of the contender at this place."""
        return sum(leg.summary.failed for leg in self.legs_of(contender))

    @property
    def failed(self) -> bool:
        """Whether any request of a contender after the first failed, or of the first more than it may."""
        sent = sum(len(leg.result.samples) for leg in self.legs_of(0))
        others = range(1, len(self.plan.contenders))
        return any(map(self.failed_of, others)) or self.failed_of(0) > TOLERATED_OF_THE_FIRST * sent


@dataclass(frozen=True, slots=True)
class CompareProgress:
    """Told after each request."""

    round_number: int
    """From 1."""
    rounds: int
    contender: str
    leg: Progress


async def compare(plan: Plan, on_progress: Callable[[CompareProgress], None] | None = None) -> Comparison:
    """Run every round. The order turns around from round to round (A B, B A, ...), so that a drift of the machine
    favours nobody. All contenders of a round get the same prompts, each behind a line of its own (`Workload.salted`),
    so that none finds the caches filled by another, or by an earlier comparison. Raises ValueError for a target that is
    no URL, before anything is sent."""
    for contender in plan.contenders:
        _ = contender.target.url
    salt = secrets.token_hex(4)
    if plan.warmups:
        for contender in plan.contenders:
            first = plan.workload(plan.seed).salted(f"{salt} {contender.name} warm-up")
            await warm_up(contender.target, first, plan.pace, plan.warmups)
    rounds: list[tuple[Leg, ...]] = []
    for number in range(plan.rounds):
        workload = plan.workload(plan.seed + number)
        legs: dict[str, Leg] = {}
        for contender in _order(plan.contenders, number):
            salted = workload.salted(f"{salt} {contender.name} {number}")
            legs[contender.name] = await _run_leg(plan, contender, salted, number, on_progress)
        rounds.append(tuple(legs[contender.name] for contender in plan.contenders))
    return Comparison(plan, tuple(rounds))


def _order(contenders: Sequence[Contender], round_number: int) -> Sequence[Contender]:
    return contenders[::-1] if round_number % 2 else contenders


async def _run_leg(
    plan: Plan,
    contender: Contender,
    workload: Workload,
    number: int,
    on_progress: Callable[[CompareProgress], None] | None,
) -> Leg:
    def told(progress: Progress) -> None:
        if on_progress is not None:
            on_progress(CompareProgress(number + 1, plan.rounds, contender.name, progress))

    async with watching(plan.replicas, plan.interval_s) as watched:
        result = await run_load(
            contender.target,
            workload,
            plan.pace,
            seed=plan.seed + number,
            timeout_s=plan.timeout_s,
            on_progress=told,
        )
    return Leg(contender, result, summarise(result), watched, kv_spread(watched), prefix_hit_rate(watched))
