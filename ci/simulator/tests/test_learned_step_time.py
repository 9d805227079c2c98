"""The picker learns the step time of cards that it was not fitted to."""

from pathlib import Path

import pytest
from picker.resources.inference import RoutingStrategy
from picker.scheduling.terms.step_time import PoolStepTime
from simulator.experiment.simulation import Simulation
from simulator.matrix.description import Split, read_matrix
from simulator.schedulers.registry import picker_strategy
from vllm_mock.engine.speed import CARDS

MATRIX = read_matrix(Path(__file__).parents[1] / "matrix.yaml")


@pytest.mark.parametrize("card", ["a10", "4090-3b", "h20-235b", "b200-70b"])
def test_the_step_time_of_a_card_is_learned_under_load(card: str) -> None:
    """Within a fifth, for decode steps of a full batch, alone and with a chunk of a prompt."""
    (scenario,) = MATRIX.scenarios(Split.HELD_OUT, f"{card}/steady-70")
    simulation = Simulation(scenario, picker_strategy(RoutingStrategy.DEFAULT), 1, Path())
    simulation.run()
    pool = PoolStepTime()
    for now_s in range(3):
        pool.observe(simulation.pickers[0].endpoints, 2.0 * now_s)
    learned, true = pool.time, CARDS[card].step_time
    sequences, context = 30, 40_000
    for prompt_tokens in (0, 2048):
        predicted = (
            learned.base_s
            + learned.per_sequence_s * sequences
            + learned.per_prompt_token_s * prompt_tokens
            + learned.per_context_token_s * context
        )
        assert predicted == pytest.approx(true.seconds(sequences, prompt_tokens, context), rel=0.2)
