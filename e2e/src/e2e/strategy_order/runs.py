"""Runs a scenario with a strategy, in the simulator and through Envoy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmark.load.pace import Pace
from benchmark.load.run import Progress, run_load
from benchmark.load.target import Target
from benchmark.workload import Workload
from picker.resources.inference import RoutingStrategy
from simulator.experiment.runner import run_one
from simulator.schedulers.registry import picker_strategy
from simulator.workload.scenario import Scenario

from e2e.local_gateway import MODEL, LocalGateway, MockFleet
from e2e.strategy_order.loads import rate_per_s

SEEDS = 3
"""Number of loads in the simulator. Envoy gets the first of them."""
SCRAPE_S = 0.2
"""Scrape interval in the engines' seconds, as in the simulator."""
STRATEGIES = (
    RoutingStrategy.ROUND_ROBIN,
    RoutingStrategy.LEAST_REQUEST,
    RoutingStrategy.DEFAULT,
    RoutingStrategy.PREFIX_CACHE,
)


class RequestsFailed(Exception):
    """Requests failed, so the run has no result. The message is shown to the user."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Times to the first token, in the engines' seconds."""

    p50_s: float
    p90_s: float


def simulated(scenario: Scenario, strategy: RoutingStrategy) -> Latency:
    """Runs the scenario in the simulator, and returns the mean over the loads."""
    measures = [run_one(scenario, picker_strategy(strategy), seed, Path()) for seed in range(SEEDS)]
    return Latency(
        float(np.mean([measure.ttft_p50_s for measure in measures])),
        float(np.mean([measure.ttft_p90_s for measure in measures])),
    )


def gateway_for(scenario: Scenario, time_scale: float) -> LocalGateway:
    """A gateway with the scenario's fleet as mocks, `time_scale` times as fast.

    The picker scrapes as often as in the simulator, in the engines' time.
    """
    # The simulator's engines accept prompts of any length.
    fleets = [
        MockFleet(servers.count, servers.card, time_scale, ("--max-model-len=16384",)) for servers in scenario.fleet
    ]
    interval_s = SCRAPE_S / time_scale
    arguments = [f"--scrape-interval-s={interval_s}", f"--scrape-max-interval-s={interval_s}"]
    return LocalGateway(fleets, picker_arguments=arguments)


async def through_envoy(
    gateway: LocalGateway,
    scenario: Scenario,
    workload: Workload,
    strategy: RoutingStrategy,
    time_scale: float,
    on_progress: Callable[[Progress], None],
) -> Latency:
    """Runs `workload` through Envoy. Raises RequestsFailed."""
    await gateway.set_strategy(strategy.value)
    # Salted prompts do not hit cache blocks of another strategy's run.
    salted = workload.salted(strategy.value)
    pace = Pace(request_rate=rate_per_s(scenario, workload) * time_scale)
    result = await run_load(Target(gateway.picked_url, MODEL), salted, pace, on_progress=on_progress)
    if result.failed:
        raise RequestsFailed(f"{scenario.name}, {strategy.value}: {len(result.failed)} requests failed")
    counted = [request for request in result.completed if request.arrived_s * time_scale >= scenario.warmup_s]
    return _latency([request.ttft_s * time_scale for request in counted])


def _latency(ttfts_s: Sequence[float]) -> Latency:
    p50_s, p90_s = np.percentile(ttfts_s, [50, 90])
    return Latency(float(p50_s), float(p90_s))
