"""Numbers drawn at random, as a scenario describes them."""

from math import exp, log
from random import Random
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Schema(BaseModel):
    """A part of a scenario: unknown keys are refused."""

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
    """Heavy-tailed: lengths of answers and of documents are."""

    kind: Literal["lognormal"]
    median: float = Field(gt=0)
    sigma: float = Field(gt=0)
    high: float = Field(gt=0, description="larger draws are cut to this")

    def draw(self, rng: Random) -> float:
        return min(self.high, exp(rng.gauss(log(self.median), self.sigma)))


class Mixture(Schema):
    """One of two: most requests of one kind, a share of another."""

    kind: Literal["mixture"]
    share: float = Field(ge=0, le=1, description="of `rare` draws")
    common: "Distribution"
    rare: "Distribution"

    def draw(self, rng: Random) -> float:
        return (self.rare if rng.random() < self.share else self.common).draw(rng)


Distribution = Annotated[Fixed | Uniform | Exponential | Lognormal | Mixture, Field(discriminator="kind")]


def tokens(distribution: Distribution, rng: Random) -> int:
    """A length: at least one token."""
    return max(1, round(distribution.draw(rng)))


class Zipf:
    """Ranks 0..count-1, the k-th with weight 1 / (k+1)^exponent."""

    def __init__(self, count: int, exponent: float) -> None:
        self._cumulative: list[float] = []
        total = 0.0
        for rank in range(count):
            total += 1 / (rank + 1) ** exponent
            self._cumulative.append(total)
        self._ranks = range(count)

    def draw(self, rng: Random) -> int:
        return rng.choices(self._ranks, cum_weights=self._cumulative)[0]
