"""Runs the targets in turns, round by round."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmark.load.pace import Pace
from benchmark.load.run import DEFAULT_TIMEOUT_S, Progress, run_load, warm_up
from benchmark.load.samples import LoadResult
from benchmark.load.target import Target
from benchmark.replicas.spread import Spread, kv_spread, prefix_hit_rate
from benchmark.replicas.watch import DEFAULT_INTERVAL_S, Recording, Replica, record_metrics
from benchmark.results.summary import Summary, summarise
from benchmark.workload import Workload

TOLERATED_OF_THE_FIRST = 0.01
"""Share of the first contender's requests that may fail, because it is only the baseline. Judgement: the tutorial's
plain route sends some requests on connections that vLLM closes at that moment, after five idle seconds."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A target with a short name."""

    name: str
    target: Target


@dataclass(frozen=True, slots=True)
class Plan:
    """The contenders of a comparison, and the load of each round."""

    contenders: tuple[Contender, ...]
    """At least two; ratios are to the first."""
    workload: Callable[[int], Workload]
    """Makes the workload of a seed."""
    pace: Pace
    rounds: int = 4
    """An even number lets each contender go first equally often."""
    seed: int = 0
    """Seed of the first round. Round n uses `seed + n`."""
    replicas: tuple[Replica, ...] = ()
    interval_s: float = DEFAULT_INTERVAL_S
    """Seconds between two samples of the replicas' metrics."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    warmups: int = 0
    """Requests to each contender before the first round; they are not measured."""


@dataclass(frozen=True, slots=True)
class Run:
    """One contender's run in a round."""

    contender: Contender
    result: LoadResult
    summary: Summary
    recording: Recording
    """The replicas' metrics during the run."""
    kv_spread: Spread
    prefix_hit_rate: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The measurements of all rounds."""

    plan: Plan
    rounds: tuple[tuple[Run, ...], ...]
    """The runs of each round, in the order of the plan's contenders and not in the order in which they ran."""

    def runs_of(self, contender: int) -> tuple[Run, ...]:
        """The runs of the contender at this index, round by round."""
        return tuple(runs[contender] for runs in self.rounds)

    @property
    def failed_requests(self) -> int:
        return sum(map(self.failed_of, range(len(self.plan.contenders))))

    def failed_of(self, contender: int) -> int:
        """Failed requests of the contender at this index."""
        return sum(run.summary.failed for run in self.runs_of(contender))

    @property
    def failed(self) -> bool:
        """Whether a request of a contender after the first failed, or more than `TOLERATED_OF_THE_FIRST` of the
        first's."""
        sent = sum(len(run.result.samples) for run in self.runs_of(0))
        others = range(1, len(self.plan.contenders))
        return any(map(self.failed_of, others)) or self.failed_of(0) > TOLERATED_OF_THE_FIRST * sent


@dataclass(frozen=True, slots=True)
class CompareProgress:
    """The progress of a comparison, reported after each request."""

    round_number: int
    """Number of the current round, from 1 on."""
    rounds: int
    contender: str
    run: Progress


async def compare(plan: Plan, on_progress: Callable[[CompareProgress], None] | None = None) -> Comparison:
    """Runs every round.

    The order reverses from round to round (A B, B A, ...), so that a drift of the machine favours no contender. All
    contenders of a round get the same prompts, each behind its own line (`Workload.salted`): none finds a cache
    filled by another one or by an earlier comparison. Raises ValueError for a target that is no URL, before the first
    request."""
    for contender in plan.contenders:
        _ = contender.target.url
    salt = secrets.token_hex(4)
    if plan.warmups:
        for contender in plan.contenders:
            first = plan.workload(plan.seed).salted(f"{salt} {contender.name} warm-up")
            await warm_up(contender.target, first, plan.pace, plan.warmups)
    rounds: list[tuple[Run, ...]] = []
    for number in range(plan.rounds):
        workload = plan.workload(plan.seed + number)
        runs: dict[str, Run] = {}
        for contender in _order(plan.contenders, number):
            salted = workload.salted(f"{salt} {contender.name} {number}")
            runs[contender.name] = await _run_one(plan, contender, salted, number, on_progress)
        rounds.append(tuple(runs[contender.name] for contender in plan.contenders))
    return Comparison(plan, tuple(rounds))


def _order(contenders: Sequence[Contender], round_number: int) -> Sequence[Contender]:
    return contenders[::-1] if round_number % 2 else contenders


async def _run_one(
    plan: Plan,
    contender: Contender,
    workload: Workload,
    number: int,
    on_progress: Callable[[CompareProgress], None] | None,
) -> Run:
    def report(progress: Progress) -> None:
        if on_progress is not None:
            on_progress(CompareProgress(number + 1, plan.rounds, contender.name, progress))

    async with record_metrics(plan.replicas, plan.interval_s) as recording:
        result = await run_load(
            contender.target,
            workload,
            plan.pace,
            seed=plan.seed + number,
            timeout_s=plan.timeout_s,
            on_progress=report,
        )
    return Run(contender, result, summarise(result), recording, kv_spread(recording), prefix_hit_rate(recording))
