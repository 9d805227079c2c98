"""`gateway-order`: the same load for simulator and Envoy, and what may be said of two orders."""

from pathlib import Path

import pytest
from benchmark.tokens.tokenizer import find_tokenizer
from e2e.strategy_order.cli import TIME_SCALES
from e2e.strategy_order.loads import workload_of
from e2e.strategy_order.verdict import agreement
from simulator.workload.scenario import Scenario, read_scenario

SCENARIOS = Path(__file__).parents[1] / "src" / "e2e" / "strategy_order" / "scenarios"
WORDS = ("a ", "b ", "c ")


def scenario(name: str, **workload: object) -> Scenario:
    """With changes to its workload."""
    read = read_scenario(SCENARIOS / f"{name}.yaml").model_dump()
    read["workload"] |= workload
    return Scenario.model_validate(read)


def test_there_is_a_scenario_for_each_name() -> None:
    assert {path.stem for path in SCENARIOS.iterdir()} == TIME_SCALES.keys()


@pytest.mark.parametrize("name", TIME_SCALES)
def test_a_scenarios_prompts_are_as_long_as_the_simulator_has_them(name: str) -> None:
    """By the tokenizer of the mocks, too."""
    tokenizer = find_tokenizer("/model/qwen", None)
    work = workload_of(scenario(name), 0, tokenizer.words)
    assert work == workload_of(scenario(name), 0, tokenizer.words)
    for prompt in list(work)[:20]:
        assert tokenizer.count(prompt.text) == prompt.tokens


def test_prompts_share_a_beginning_where_the_simulators_do() -> None:
    work = workload_of(
        scenario("tenants", prefixes={"count": 5, "tokens": {"kind": "fixed", "value": 500}, "zipf": 0.0}), 0, WORDS
    )
    beginnings = {prompt.text[: 500 * 2] for prompt in work}
    assert len(beginnings) == 5
    assert len({prompt.text for prompt in work}) == len(work)


def test_a_load_that_cannot_be_sent_so_is_refused() -> None:
    with pytest.raises(ValueError, match="random: expected single requests"):
        workload_of(scenario("random", arrivals={"kind": "closed", "clients": 3}), 0, WORDS)


def test_pairs_that_are_close_on_one_side_are_in_no_order() -> None:
    """a and b are alike behind Envoy; c and d have changed places there."""
    found = agreement({"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}, {"a": 1.1, "b": 1.0, "c": 9.0, "d": 4.0})
    assert found.close == (("a", "b"),)
    assert found.opposite == (("c", "d"),)
    assert found.same == (("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"))
