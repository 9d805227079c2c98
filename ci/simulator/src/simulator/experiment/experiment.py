"""Many runs: scenarios, contenders and seeds, on all cores."""

import gc
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from simulator.experiment.measures import Measures, measure
from simulator.experiment.simulation import Simulation
from simulator.schedulers.registry import CONTENDERS, Contender
from simulator.workload.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Study:
    """What to run."""

    scenarios: Sequence[Scenario]
    contenders: Sequence[str]
    seeds: int
    traces: Path


Results = Mapping[str, Mapping[str, Sequence[Measures]]]
"""Measures by scenario, contender and seed. Seed `n` is the same load for every contender."""


def run_study(study: Study, jobs: int, progress: Callable[[int, int, str], None]) -> Results:
    """Run all. `progress` hears how many runs are done, of how many, and what ended last. Raises NoTrace."""
    cells = [(scenario, name) for scenario in study.scenarios for name in study.contenders]
    results: dict[str, dict[str, Sequence[Measures]]] = {scenario.name: {} for scenario in study.scenarios}
    with ProcessPoolExecutor(jobs) as pool:
        # A cell is all seeds of a scenario and a contender: enough work to be worth its way to another process.
        pending = [
            (scenario, name, pool.submit(run_cell, scenario, name, study.seeds, study.traces))
            for scenario, name in cells
        ]
        for done, (scenario, name, future) in enumerate(pending, 1):
            results[scenario.name][name] = future.result()
            progress(done, len(cells), f"{scenario.name}: {name}")
    return results


def run_cell(scenario: Scenario, contender: str, seeds: int, traces: Path) -> list[Measures]:
    """All seeds of a scenario and a contender. Raises NoTrace."""
    measures: list[Measures] = []
    # A run makes millions of blocks and few cycles: looking for those takes longer than they are worth.
    gc.disable()
    for seed in range(seeds):
        measures.append(run_one(scenario, CONTENDERS[contender], seed, traces))
        gc.collect()
    return measures


def run_one(scenario: Scenario, contender: Contender, seed: int, traces: Path) -> Measures:
    """Raises NoTrace."""
    simulation = Simulation(scenario, contender, seed, traces)
    simulation.run()
    return measure(simulation.records, simulation.kv_spreads, scenario)
