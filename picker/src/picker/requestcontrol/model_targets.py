"""Which of a model's target models answers a request."""

from collections.abc import Sequence
from random import Random

from picker.resources.inference import TargetModel


def choose_target(targets: Sequence[TargetModel], rng: Random) -> str:
    """The name of one of `targets`, at least one, drawn by weight."""
    if len(targets) == 1:
        return targets[0].name
    return rng.choices(targets, weights=[target.weight for target in targets])[0].name
