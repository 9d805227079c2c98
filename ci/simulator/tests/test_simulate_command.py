"""The command `picker simulate`: arguments, output and files."""

import json
from pathlib import Path

import pytest
from simulator.cli import main
from simulator.schedulers.registry import FACTORS, WEIGHTS

SMALL = """\
name: small
description: Two servers, half a minute.
fleet:
  - {card: a10, count: 2}
workload:
  kind: generated
  arrivals: {kind: poisson, rate_per_s: 2}
  input_tokens: {kind: fixed, value: 500}
  output_tokens: {kind: fixed, value: 20}
duration_s: 30
warmup_s: 5
slo: {ttft_s: 1, tpot_s: 0.1}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    return file


def run(scenario: Path, *flags: str) -> int:
    return main([str(scenario), "--seeds=2", "--jobs=1", "--strategies=least-request,DEFAULT", *flags])


def test_every_strategy_serves_every_request_and_is_in_every_result(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, tables = tmp_path / "figures.json", tmp_path / "tables.md"
    assert run(scenario, f"--json={figures}", f"--markdown={tables}") == 0
    shown = capsys.readouterr().out
    results = json.loads(figures.read_text())["small"]
    for name in ("least-request", "DEFAULT"):
        assert name in shown
        assert f" {name} |" in tables.read_text()
        assert len(results[name]["seeds"]) == 2
        assert all(seed["failed"] == seed["shed"] == 0 < seed["tokens_per_s"] for seed in results[name]["seeds"])


def test_scrapes_may_arrive_late(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The delay exceeds the interval of the scrapes."""
    scenario.write_text(SMALL + "scrapes: {delay_s: 0.7}\n")
    assert run(scenario, "--strategies=filter-tree,weighted-scorers") == 0
    assert "weighted-scorers" in capsys.readouterr().out


def test_every_weight_is_compared_at_half_and_twice_its_value(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "sensitivity.md"
    assert run(scenario, "--sensitivity", f"--markdown={table}") == 0
    rows = table.read_text().splitlines()[2:]
    assert [row.split("|")[1].strip(" `") for row in rows] == [name for name in WEIGHTS for _ in FACTORS]
    assert rows[0] in capsys.readouterr().out


def test_losses_are_printed_for_every_number_of_pickers_and_interval(
    scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(scenario, "--losses") == 0
    shown = capsys.readouterr().out
    assert shown.count("4 pickers  4 pickers  4 pickers") == 6, "two strategies, three measures"
    assert shown.count("geometric mean") == 6
    assert "DEFAULT: TTFT p90, as ratios to one picker and scrapes every 0.2 s" in shown


def test_problems_of_a_scenario_are_reported_by_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(SMALL.replace("count: 2", "count: 0").replace("slo:", "slos:"))
    assert run(wrong) == 2
    error = capsys.readouterr().err
    assert "fleet.0.count" in error
    assert "slos" in error


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "often"])
def test_an_invalid_scrape_interval_is_rejected(
    interval: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, "--scrape-interval", interval)
    assert f"allowed are seconds above 0, found {interval}" in capsys.readouterr().err


def test_losses_say_whether_pickers_report_to_each_other(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(scenario, "--losses", "--exchange=0.1") == 0
    assert "which report to each other at most every 0.1 s." in capsys.readouterr().out
    assert run(scenario, "--losses") == 0
    assert "which share no state (see --exchange)." in capsys.readouterr().out
