"""`gateway-order`: equal loads for simulator and Envoy, and the comparison of two orders."""

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
    """A scenario of `gateway-order`, with changes of its workload."""
    read = read_scenario(SCENARIOS / f"{name}.yaml").model_dump()
    read["workload"] |= workload
    return Scenario.model_validate(read)


def test_each_scenario_has_a_time_scale() -> None:
    assert {path.stem for path in SCENARIOS.iterdir()} == TIME_SCALES.keys()


@pytest.mark.parametrize("name", TIME_SCALES)
def test_prompts_have_the_simulators_lengths(name: str) -> None:
    """The mocks' tokenizer counts the same tokens."""
    tokenizer = find_tokenizer("/model/qwen", None)
    work = workload_of(scenario(name), 0, tokenizer.words)
    assert work == workload_of(scenario(name), 0, tokenizer.words)
    for prompt in list(work)[:20]:
        assert tokenizer.count(prompt.text) == prompt.tokens


def test_prompts_share_prefixes_as_in_the_simulator() -> None:
    work = workload_of(
        scenario("tenants", prefixes={"count": 5, "tokens": {"kind": "fixed", "value": 500}, "zipf": 0.0}), 0, WORDS
    )
    beginnings = {prompt.text[: 500 * 2] for prompt in work}
    assert len(beginnings) == 5
    assert len({prompt.text for prompt in work}) == len(work)


def test_an_unsupported_load_is_rejected() -> None:
    with pytest.raises(ValueError, match="random: expected single requests"):
        workload_of(scenario("random", arrivals={"kind": "closed", "clients": 3}), 0, WORDS)


def test_the_order_of_a_close_pair_is_undecided() -> None:
    """a and b are close through Envoy. c and d are in opposite orders."""
    found = agreement({"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}, {"a": 1.1, "b": 1.0, "c": 9.0, "d": 4.0})
    assert found.close == (("a", "b"),)
    assert found.opposite == (("c", "d"),)
    assert found.same == (("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"))
