"""Runs an experiment: every scenario with every scheduler and seed, in parallel processes."""

import gc
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from simulator.experiment.measures import Measures, measure
from simulator.experiment.simulation import Simulation
from simulator.schedulers.registry import SCHEDULERS, WEIGHT_VARIANTS, SchedulerSpec
from simulator.workload.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Experiment:
    """The scenarios, schedulers and seeds to run."""

    scenarios: Sequence[Scenario]
    schedulers: Sequence[str]
    """Names in `SCHEDULERS` or `WEIGHT_VARIANTS`."""
    seeds: int
    """Number of seeds."""
    traces: Path
    """Folder of the traces."""
    first_seed: int = 0


Results = Mapping[str, Mapping[str, Sequence[Measures]]]
"""Measures by scenario, scheduler and seed. A seed gives the same load for every scheduler."""


def run_experiment(experiment: Experiment, jobs: int, progress: Callable[[int, int, str], None]) -> Results:
    """Runs all. `progress` gets the number of ended cells, their total, and the last one. Raises TraceError.

    A cell is all seeds of a scenario and a scheduler."""
    cells = [(scenario, name) for scenario in experiment.scenarios for name in experiment.schedulers]
    seeds = range(experiment.first_seed, experiment.first_seed + experiment.seeds)
    results: dict[str, dict[str, Sequence[Measures]]] = {scenario.name: {} for scenario in experiment.scenarios}
    with ProcessPoolExecutor(jobs) as pool:
        # All seeds together: enough work to justify the transfer to another process.
        pending = [
            (scenario, name, pool.submit(run_cell, scenario, name, seeds, experiment.traces))
            for scenario, name in cells
        ]
        for done, (scenario, name, future) in enumerate(pending, 1):
            results[scenario.name][name] = future.result()
            progress(done, len(cells), f"{scenario.name}: {name}")
    return results


def run_cell(scenario: Scenario, scheduler: str, seeds: Sequence[int], traces: Path) -> list[Measures]:
    """Runs the seeds of a scenario and a scheduler. Raises TraceError."""
    measures: list[Measures] = []
    spec = SCHEDULERS.get(scheduler) or WEIGHT_VARIANTS[scheduler]
    # A run makes millions of blocks and few reference cycles, so the collector costs more than it frees.
    gc.disable()
    for seed in seeds:
        measures.append(run_one(scenario, spec, seed, traces))
        gc.collect()
    return measures


def run_one(scenario: Scenario, spec: SchedulerSpec, seed: int, traces: Path) -> Measures:
    """Runs a scenario with one scheduler and seed. Raises TraceError."""
    simulation = Simulation(scenario, spec, seed, traces)
    simulation.run()
    return measure(simulation.records, simulation.kv_spreads, simulation.scrapes_per_s, scenario)
