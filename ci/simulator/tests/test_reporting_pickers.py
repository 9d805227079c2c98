"""Pickers that report to each other decide nearly as well as one."""

from pathlib import Path

import pytest
from simulator.experiment.runner import run_one
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


def test_a_server_that_dies_is_known_to_all_pickers() -> None:
    """Moves to another endpoint are reported, too."""
    scenario = read_scenario(SCENARIOS / "crash.yaml")
    assert ttft_p90_s(scenario, pickers=2, exchange_s=0.1) < ttft_p90_s(scenario, pickers=2)
