"""The picker learns the step time of cards that it was not fitted to."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from picker.resources.inference import RoutingStrategy
from picker.scheduling.terms.step_time import PoolStepTime
from simulator.experiment.measures import measure
from simulator.experiment.simulation import Simulation
from simulator.matrix.description import Split, read_matrix
from simulator.schedulers.registry import picker_strategy
from simulator.workload.scenario import Scenario
from vllm_mock.engine.speed import CARDS

MATRIX = read_matrix(Path(__file__).parents[1] / "matrix.yaml")


CARDS_RUN = ("a10", "l20", "4090-3b", "h20-235b", "b200-70b")
"""The cost's weights are fitted on the first two."""

LEARNED = tuple(card for card in CARDS_RUN if card != "l20")
"""The L20's prompts take seconds here. Then the time of a prompt token is underestimated (docs/scheduling.md)."""


@dataclass(frozen=True, slots=True)
class Run:
    """DEFAULT at seven tenths of a fleet's capacity."""

    card: str
    scenario: Scenario
    simulation: Simulation


@pytest.fixture(scope="module", params=CARDS_RUN)
def run(request: pytest.FixtureRequest) -> Run:
    (scenario,) = MATRIX.scenarios(Split.HELD_OUT, f"{request.param}/steady-70")
    simulation = Simulation(scenario, picker_strategy(RoutingStrategy.DEFAULT), 1, Path())
    simulation.run()
    return Run(request.param, scenario, simulation)


@pytest.mark.parametrize("run", LEARNED, indirect=True)
def test_the_step_time_of_a_card_is_learned_under_load(run: Run) -> None:
    """Within a fifth, for decode steps of a full batch, alone and with a chunk of a prompt."""
    pool = PoolStepTime()
    for now_s in range(3):
        pool.observe(run.simulation.pickers[0].endpoints, 2.0 * now_s)
    learned, true = pool.time, CARDS[run.card].step_time
    sequences, context = 30, 40_000
    for prompt_tokens in (0, 2048):
        predicted = (
            learned.base_s
            + learned.per_sequence_s * sequences
            + learned.per_prompt_token_s * prompt_tokens
            + learned.per_context_token_s * context
        )
        assert predicted == pytest.approx(true.seconds(sequences, prompt_tokens, context), rel=0.2)


def test_the_time_to_first_token_is_predicted_within_a_fifth(run: Run) -> None:
    """The median of the absolute errors, whether the weights were fitted on the card or not."""
    done = run.simulation
    assert 0.0 < measure(done.records, done.kv_spreads, done.scrapes_per_s, run.scenario).ttft_error < 0.2
