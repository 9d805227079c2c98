"""Pickers that report to each other decide nearly as well as one."""

from pathlib import Path

import pytest
from simulator.experiment.runner import run_one
from simulator.experiment.simulation import Simulation
from simulator.schedulers.registry import SCHEDULERS
from simulator.workload.scenario import Scenario, read_scenario

SCENARIOS = Path(__file__).parents[1] / "scenarios"


def ttft_p90_s(scenario: Scenario, **changes: object) -> float:
    return run_one(scenario.model_copy(update=changes), SCHEDULERS["DEFAULT"], 0, SCENARIOS).ttft_p90_s


@pytest.mark.parametrize("pickers", [2, 4])
def test_pickers_that_report_to_each_other_lose_little(pickers: int) -> None:
    scenario = read_scenario(SCENARIOS / "tenants.yaml").scraped_every(1.0)
    one = ttft_p90_s(scenario)
    silent = ttft_p90_s(scenario, pickers=pickers)
    reporting = ttft_p90_s(scenario, pickers=pickers, exchange_s=0.1)
    assert one < 0.7 * silent
    assert reporting < 1.15 * one


def test_a_picker_that_takes_over_is_warm() -> None:
    """In its first half minute it decides as the picker before it would. Without reports it does not."""
    scenario = read_scenario(SCENARIOS / "tenants.yaml")
    takeover_s = (scenario.warmup_s + scenario.duration_s) / 2

    def after_takeover_s(**changes: object) -> float:
        simulation = Simulation(scenario.model_copy(update=changes), SCHEDULERS["DEFAULT"], 0, SCENARIOS)
        simulation.run()
        ttfts_s = sorted(
            record.ttft_s
            for record in simulation.records
            if record.first_s and takeover_s <= record.arrived_s < takeover_s + 30.0
        )
        return ttfts_s[len(ttfts_s) * 9 // 10]

    one = after_takeover_s()
    assert after_takeover_s(pickers=2, takeover_s=takeover_s) > 2.0 * one
    assert after_takeover_s(pickers=2, takeover_s=takeover_s, exchange_s=0.1) < 1.2 * one


def test_a_server_that_dies_is_known_to_all_pickers() -> None:
    """Moves to another endpoint are reported, too."""
    scenario = read_scenario(SCENARIOS / "crash.yaml")
    assert ttft_p90_s(scenario, pickers=2, exchange_s=0.1) < ttft_p90_s(scenario, pickers=2)
