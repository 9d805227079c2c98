"""The probability distributions of scenarios."""

from math import exp, log
from random import Random
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Schema(BaseModel):
    """A part of a scenario. Unknown keys are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Fixed(Schema):
    kind: Literal["fixed"]
    value: float = Field(ge=0)

    def draw(self, rng: Random) -> float:
        return self.value


class Uniform(Schema):
    kind: Literal["uniform"]
    low: float = Field(ge=0)
    high: float = Field(gt=0)

    def draw(self, rng: Random) -> float:
        return rng.uniform(self.low, self.high)


class Exponential(Schema):
    kind: Literal["exponential"]
    mean: float = Field(gt=0)

    def draw(self, rng: Random) -> float:
        return rng.expovariate(1 / self.mean)


class Lognormal(Schema):
    """A heavy-tailed distribution, like the lengths of answers and documents."""

    kind: Literal["lognormal"]
    median: float = Field(gt=0)
    sigma: float = Field(gt=0)
    high: float = Field(gt=0, description="larger values are cut to this")

    def draw(self, rng: Random) -> float:
        return min(self.high, exp(rng.gauss(log(self.median), self.sigma)))


class Mixture(Schema):
    """A mixture of two distributions: a common and a rare one."""

    kind: Literal["mixture"]
    share: float = Field(ge=0, le=1, description="probability of `rare`")
    common: "Distribution"
    rare: "Distribution"

    def draw(self, rng: Random) -> float:
        return (self.rare if rng.random() < self.share else self.common).draw(rng)


Distribution = Annotated[Fixed | Uniform | Exponential | Lognormal | Mixture, Field(discriminator="kind")]


def tokens(distribution: Distribution, rng: Random) -> int:
    """Draws a length of at least one token."""
    return max(1, round(distribution.draw(rng)))


class Zipf:
    """Zipf's law: ranks 0..count-1, where rank k has the weight 1 / (k+1)^exponent."""

    def __init__(self, count: int, exponent: float) -> None:
        self._cumulative: list[float] = []
        total = 0.0
        for rank in range(count):
            total += 1 / (rank + 1) ** exponent
            self._cumulative.append(total)
        self._ranks = range(count)

    def draw(self, rng: Random) -> int:
        return rng.choices(self._ranks, cum_weights=self._cumulative)[0]
