"""Which of a model's target models answers a request."""

from random import Random

from picker.resources.inference import InferenceModel


def choose_target(model: InferenceModel, rng: Random) -> str:
    """The name of one target, drawn by weight."""
    targets = model.targets
    if len(targets) == 1:
        return targets[0].name
    return rng.choices(targets, weights=[target.weight for target in targets])[0].name
