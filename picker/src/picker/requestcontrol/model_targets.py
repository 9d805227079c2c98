"""Selects the target model of a request."""

from collections.abc import Sequence
from random import Random

from picker.resources.inference import TargetModel


def choose_target(targets: Sequence[TargetModel], rng: Random) -> str:
    """Returns the name of one of `targets`, selected at random by weight. `targets` must not be empty."""
    if len(targets) == 1:
        return targets[0].name
    return rng.choices(targets, weights=[target.weight for target in targets])[0].name
