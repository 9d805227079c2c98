"""The simulator's pickers scrape as often as the picker's own schedule decides."""

from pathlib import Path

import pytest
from simulator.experiment.measures import Measures
from simulator.experiment.runner import run_one
from simulator.schedulers.registry import SCHEDULERS
from simulator.workload.scenario import read_scenario

SCENARIOS = Path(__file__).parents[1] / "scenarios"


def run(page_s: float, **changes: object) -> Measures:
    scenario = read_scenario(SCENARIOS / "tenants.yaml").scraped_at_cost(page_s)
    return run_one(scenario.model_copy(update=changes), SCHEDULERS["DEFAULT"], 0, SCENARIOS)


@pytest.mark.parametrize(("page_s", "scrapes_per_s"), [(0.0003, 5.0), (0.005, 2.0), (0.02, 1.0)])
def test_one_picker_predicts_its_servers_pages(page_s: float, scrapes_per_s: float) -> None:
    """So scrapes take a hundredth of a server's time, or are a second apart."""
    assert run(page_s).scrapes_per_s == pytest.approx(scrapes_per_s, rel=0.1)


def test_pickers_that_do_not_report_to_each_other_scrape_more_often() -> None:
    """Each of them sees foreign requests. Scrapes of both take up to a tenth of a server's time."""
    silent = run(0.02, pickers=2)
    assert 4.0 < silent.scrapes_per_s < 5.2
    assert run(0.02, pickers=2, exchange_s=0.1).scrapes_per_s == pytest.approx(2.0, rel=0.1)
