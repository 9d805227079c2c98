"""The scenario matrix: relative loads, the split into fitted and held-out cards, and the worst cells."""

from dataclasses import replace
from pathlib import Path

import pytest
from picker.resources.inference import RoutingStrategy
from rich.console import Console
from simulator.cli import MATRIX, main
from simulator.experiment.measures import Measures
from simulator.experiment.report import Verdict
from simulator.experiment.runner import run_one
from simulator.experiment.simulation import Simulation
from simulator.matrix.capacity import FleetCapacity, mean_request
from simulator.matrix.description import Matrix, Split, read_matrix, scenario
from simulator.matrix.worst_cells import cells, print_worst, worst
from simulator.schedulers.registry import LEAST_REQUEST, SCHEDULERS, WEIGHTED_SCORERS
from simulator.workload.distributions import Exponential
from simulator.workload.scenario import Closed, Generated, InvalidScenario, Poisson, Scenario
from vllm_mock.engine.speed import CARDS

CARDS_TO_RUN = ("l4-8b", "b200-70b", "4090-3b")
"""A server that memory limits, a large one, and a fast one."""


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return read_matrix(MATRIX)


def of(matrix: Matrix, card: str, shape: str) -> Scenario:
    return scenario(next(each for each in matrix.shapes if each.name == shape), card)


def workload_of(scenario: Scenario) -> Generated:
    assert isinstance(scenario.workload, Generated)
    return scenario.workload


def capacity_of(scenario: Scenario) -> FleetCapacity:
    return FleetCapacity.of(scenario.fleet, workload_of(scenario))


def measured(scenario: Scenario, strategy: str = RoutingStrategy.DEFAULT.value) -> Measures:
    return run_one(scenario, SCHEDULERS[strategy], 0, Path())


def test_every_card_has_a_use(matrix: Matrix) -> None:
    assert sorted((*matrix.cards.fit, *matrix.cards.held_out)) == sorted(CARDS)


def test_fitting_sees_neither_held_out_cards_nor_seeds(matrix: Matrix) -> None:
    fitted = {each.fleet[0].card for each in matrix.scenarios(Split.FIT, "*/chat")}
    assert fitted.isdisjoint(matrix.cards.held_out)
    assert {each.fleet[0].card for each in matrix.scenarios(Split.HELD_OUT, "*/chat")} == set(CARDS)
    assert matrix.seed_of(Split.HELD_OUT) >= matrix.seed_of(Split.FIT) + 1000


@pytest.mark.parametrize("card", CARDS_TO_RUN)
def test_a_saturated_closed_loop_has_the_computed_rate(matrix: Matrix, card: str) -> None:
    """As many clients as the caches hold, with answers of nearly equal lengths."""
    closed = of(matrix, card, "random")
    capacity = capacity_of(closed)
    measures = measured(closed)
    arrivals = workload_of(closed).arrivals
    assert isinstance(arrivals, Closed)
    load = arrivals.clients / capacity.most_sequences
    expected = sum(
        server.rate_per_s(capacity.request, load * server.most_sequences(capacity.request))
        for server in capacity.servers
    )
    assert measures.tokens_per_s == pytest.approx(expected * capacity.request.output, rel=0.12)


@pytest.mark.parametrize("card", CARDS_TO_RUN)
def test_the_measured_utilisation_is_near_the_target(matrix: Matrix, card: str) -> None:
    """Served tokens, relative to those at saturation, and running requests by Little's law."""
    steady = of(matrix, card, "steady-70").model_copy(update={"estimate_error": 0.0})
    capacity = capacity_of(steady)
    simulation = Simulation(steady, SCHEDULERS["DEFAULT"], 0, Path())
    simulation.run()
    counted = [record for record in simulation.records if steady.warmup_s <= record.arrived_s < steady.duration_s]
    tokens = sum(record.output_tokens for record in counted)
    served = tokens / (steady.duration_s - steady.warmup_s) / capacity.request.output
    assert served / capacity.saturated_rate_per_s == pytest.approx(0.7, abs=0.1)
    e2e_s = sum(record.e2e_s for record in counted) / len(counted)
    assert e2e_s == pytest.approx(capacity.residence_s(0.7), rel=0.25)


def test_a_fleet_keeps_up_below_saturation_and_not_above(matrix: Matrix) -> None:
    below, above = (measured(of(matrix, "l4-8b", shape)) for shape in ("steady-70", "over-capacity"))
    assert below.shed == 0
    assert above.shed > 0.1


def test_every_card_has_the_same_relative_load(matrix: Matrix) -> None:
    for card in CARDS:
        steady = of(matrix, card, "steady-95")
        arrivals = workload_of(steady).arrivals
        assert isinstance(arrivals, Poisson)
        assert arrivals.rate_per_s == pytest.approx(0.95 * capacity_of(steady).saturated_rate_per_s)


def test_conversations_fill_their_share_of_the_caches(matrix: Matrix) -> None:
    for card in CARDS:
        chat = of(matrix, card, "chat")
        capacity, turns = capacity_of(chat), workload_of(chat).turns
        assert turns is not None
        assert isinstance(turns.think_s, Exponential)
        turn_s = capacity.residence_s(0.6) + turns.think_s.mean
        alive = 0.6 * capacity.saturated_rate_per_s * turn_s
        assert alive * capacity.request.held / capacity.kv_tokens == pytest.approx(0.65, rel=0.05)


def test_prefixes_fill_their_share_of_the_caches(matrix: Matrix) -> None:
    for card in CARDS:
        tenants = of(matrix, card, "tenants")
        capacity, prefixes = capacity_of(tenants), workload_of(tenants).prefixes
        assert prefixes is not None
        assert prefixes.count * capacity.request.shared / capacity.kv_tokens == pytest.approx(0.6, rel=0.1)


def test_a_continued_prompt_is_uncached_only_beyond_its_last_turn(matrix: Matrix) -> None:
    request = mean_request(workload_of(of(matrix, "a10", "chat")))
    assert request.uncached < 0.2 * request.prompt
    assert request.turns == pytest.approx(8, rel=0.05)


def test_unequal_caches_hold_unequal_numbers(matrix: Matrix) -> None:
    capacity = capacity_of(of(matrix, "a10", "unequal-caches"))
    most = [server.most_sequences(capacity.request) for server in capacity.servers]
    assert most[2] == pytest.approx(0.4 * most[0])


def test_the_cache_of_a_replica_has_the_size_of_its_factor(matrix: Matrix) -> None:
    simulation = Simulation(of(matrix, "a10", "one-fast"), SCHEDULERS[LEAST_REQUEST], 0, Path())
    blocks = [replica.config.num_gpu_blocks for replica in simulation.fleet.slots]
    assert blocks == [4837, 4837, 4837, 2 * 4837]


def figures(**changes: float) -> Measures:
    zero = Measures(*[0.0] * len(Measures.__dataclass_fields__))
    usual = {"ttft_p90_s": 1.0, "tpot_p90_s": 0.1, "e2e_p90_s": 10.0, "goodput_per_s": 5.0, "tokens_per_s": 100.0}
    return replace(zero, **(usual | changes))


def test_the_worst_cell_is_the_largest_loss_beyond_the_interval(matrix: Matrix) -> None:
    """Goodput 3 % lower in every seed is worse than a TTFT 20 % higher by chance."""
    steady = of(matrix, "a10", "steady-70")
    others = [figures(goodput_per_s=5.0 + seed / 10, ttft_p90_s=1 + seed) for seed in range(3)]
    ours = [
        figures(goodput_per_s=0.97 * each.goodput_per_s, ttft_p90_s=each.ttft_p90_s + change)
        for each, change in zip(others, (1.5, -0.9, 0.6), strict=True)
    ]
    found = list(cells([steady], {steady.name: {"DEFAULT": ours, LEAST_REQUEST: others}}, ["DEFAULT"]))
    cell = worst(found)
    assert (cell.measure, cell.verdict, cell.is_worse) == ("goodput_per_s", Verdict.WORSE, True)
    assert cell.loss == pytest.approx(1 / 0.97)
    assert {each.measure for each in found} == {"ttft_p90_s", "tpot_p90_s", "e2e_p90_s", "goodput_per_s"}


def test_tokens_a_second_count_only_in_closed_loops(matrix: Matrix) -> None:
    closed = of(matrix, "a10", "random")
    runs = [figures(), figures()]
    found = list(cells([closed], {closed.name: {"DEFAULT": runs, WEIGHTED_SCORERS: runs}}, ["DEFAULT"]))
    assert "tokens_per_s" in {cell.measure for cell in found}


def test_the_worst_cells_name_the_use_of_a_card(matrix: Matrix, capsys: pytest.CaptureFixture[str]) -> None:
    steady = of(matrix, "l20", "steady-70")
    runs = [figures(), figures()]
    found = list(cells([steady], {steady.name: {"DEFAULT": runs, LEAST_REQUEST: runs}}, ["DEFAULT"]))
    print_worst(found, {"l20": matrix.usage_of("l20", Split.HELD_OUT)}, Console(width=200))
    shown = capsys.readouterr().out
    assert "held-out card, held-out seeds" in shown
    assert "0 of 4 cells are worse beyond the interval" in shown


def test_the_check_fails_when_a_strategy_is_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--matrix", "--only=4090-3b/small-caches", "--seeds=2", "--jobs=1", "--strategies=DEFAULT,least-request"]
    flags += ["--split=held-out"]
    assert main(flags) == 0
    monkeypatch.setattr("simulator.matrix.worst_cells.compare", lambda *_: Verdict.WORSE)
    assert main(flags) == 0
    assert main([*flags, "--check"]) == 1


def test_an_unknown_card_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "matrix.yaml"
    file.write_text(MATRIX.read_text().replace("held_out: [l20,", "held_out: [tpu,"))
    with pytest.raises(InvalidScenario, match="no card tpu; allowed are a10"):
        read_matrix(file)
