"""Scales the lengths of a workload."""

from simulator.workload.distributions import Distribution, Exponential, Fixed, Lognormal, Mixture, Uniform
from simulator.workload.generator import MAX_SEQUENCE_TOKENS
from simulator.workload.scenario import Generated


def scaled(distribution: Distribution, factor: float) -> Distribution:
    """The distribution of `factor` times the value. Values are cut to half of `MAX_SEQUENCE_TOKENS`."""
    most = MAX_SEQUENCE_TOKENS / 2
    match distribution:
        case Fixed(value=value):
            return distribution.model_copy(update={"value": min(most, value * factor)})
        case Uniform(low=low, high=high):
            return distribution.model_copy(update={"low": min(most, low * factor), "high": min(most, high * factor)})
        case Exponential(mean=mean):
            return distribution.model_copy(update={"mean": min(most, mean * factor)})
        case Lognormal(median=median, high=high):
            return distribution.model_copy(update={"median": median * factor, "high": min(most, high * factor)})
        case Mixture(common=common, rare=rare):
            return distribution.model_copy(update={"common": scaled(common, factor), "rare": scaled(rare, factor)})


def scaled_lengths(workload: Generated, factor: float) -> Generated:
    """The workload with all lengths of prompts, prefixes and answers `factor` times as long."""
    prefixes, turns, limit = workload.prefixes, workload.turns, workload.max_tokens
    return workload.model_copy(
        update={
            "input_tokens": scaled(workload.input_tokens, factor),
            "output_tokens": scaled(workload.output_tokens, factor),
            "prefixes": prefixes and prefixes.model_copy(update={"tokens": scaled(prefixes.tokens, factor)}),
            "turns": turns and turns.model_copy(update={"input_tokens": scaled(turns.input_tokens, factor)}),
            "max_tokens": limit and round(limit * factor),
        }
    )
