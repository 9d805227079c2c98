"""A scenario with a strategy, in the simulator and through Envoy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmark.load.pace import Pace
from benchmark.load.run import Progress, run_load
from benchmark.load.target import Target
from benchmark.workload import Workload
from picker.resources.inference import RoutingStrategy
from simulator.experiment.experiment import run_one
from simulator.schedulers.registry import own
from simulator.workload.scenario import Scenario

from e2e.local_gateway import MODEL, LocalGateway, MockFleet
from e2e.strategy_order.loads import rate_per_s

SEEDS = 3
"""Loads of the simulator; Envoy gets the first of them."""
SCRAPE_S = 0.2
"""Of the engines' time: the simulator's interval."""
STRATEGIES = (
    RoutingStrategy.ROUND_ROBIN,
    RoutingStrategy.LEAST_REQUEST,
    RoutingStrategy.DEFAULT,
    RoutingStrategy.PREFIX_CACHE,
)


class RequestsFailed(Exception):
    """A run that says nothing; the message is for people."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Times to the first token, in seconds of the engines."""

    p50_s: float
    p90_s: float


def simulated(scenario: Scenario, strategy: RoutingStrategy) -> Latency:
    """The mean over the loads."""
    measures = [run_one(scenario, own(strategy), seed, Path()) for seed in range(SEEDS)]
    return Latency(
        float(np.mean([each.ttft_p50_s for each in measures])), float(np.mean([each.ttft_p90_s for each in measures]))
    )


def gateway_for(scenario: Scenario, time_scale: float) -> LocalGateway:
    """The scenario's fleet as mocks, in a hurry; the picker looks at them as often as in the simulator."""
    # The simulator's engines take prompts of any length.
    fleets = [MockFleet(each.count, each.card, time_scale, ("--max-model-len=16384",)) for each in scenario.fleet]
    return LocalGateway(fleets, picker_arguments=[f"--scrape-interval-s={SCRAPE_S / time_scale}"])


async def through_envoy(
    gateway: LocalGateway,
    scenario: Scenario,
    workload: Workload,
    strategy: RoutingStrategy,
    time_scale: float,
    on_progress: Callable[[Progress], None],
) -> Latency:
    """Raises RequestsFailed."""
    await gateway.set_strategy(strategy.value)
    # What another strategy's run has left in the caches is of no use.
    salted = workload.salted(strategy.value)
    pace = Pace(request_rate=rate_per_s(scenario, workload) * time_scale)
    result = await run_load(Target(gateway.picked_url, MODEL), salted, pace, on_progress=on_progress)
    if result.failed:
        raise RequestsFailed(f"{scenario.name}, {strategy.value}: {len(result.failed)} requests failed")
    counted = [each for each in result.completed if each.arrived_s * time_scale >= scenario.warmup_s]
    return _latency([each.ttft_s * time_scale for each in counted])


def _latency(ttfts_s: Sequence[float]) -> Latency:
    p50_s, p90_s = np.percentile(ttfts_s, [50, 90])
    return Latency(float(p50_s), float(p90_s))
