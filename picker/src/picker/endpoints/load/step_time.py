"""Learns how long a server's engine steps take, from the counters of its scrapes.

A step of an engine with continuous batching (Orca, OSDI 2022) computes one token of each decoding sequence, and chunks
of prompts. Its time is close to linear in what it computes (Sarathi-Serve, OSDI 2024; Vidur, MLSys 2024):

    step_s = base + per_sequence x sequences + per_prompt_token x prompt tokens + per_context_token x context tokens

Between two scrapes vLLM counts its steps, the tokens that it generated, and the prompt tokens that it computed. Summed
over the steps, the equation stays linear in the coefficients. They are estimated by a regression on relative errors
with forgetting. A server's own moments are kept here; `scheduling.terms.step_time` solves for the pool.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

COEFFICIENTS = 4

WINDOW_S = 1.0
"""Least time of an observation. Judgement: at a scrape the current step is not counted yet, on an A10 up to 0.4 s."""

MAX_WINDOW_S = 120.0
"""A longer window is discarded."""

PENDING_SHARE = 0.1
"""A window ends only when the prompts in prefill are as many tokens as at its beginning, but for this share of those
that were computed. Prompt tokens count at admission, and a long prompt takes several seconds from then on."""

MEMORY = 0.97
"""Share of the weight that a busy second leaves to earlier ones: the last 30 or so count. Judgement: long enough for
light and heavy steps of one load, short enough to follow another load."""

ROBUST_ERROR = 0.1
"""An observation whose predicted time exceeds the measured one by more than this share has less weight, by the square
of the excess. Measured: 1 % of the windows count a prompt that another window computed, and halve the coefficient of
prompt tokens. The reverse is not treated so: then windows with long prompts would count less."""

ROBUST_FROM_S = 10.0
"""Busy seconds from which observations are compared with the estimate."""


class StepTime(NamedTuple):
    """The coefficients of a step, in seconds."""

    base_s: float
    per_sequence_s: float
    per_prompt_token_s: float
    per_context_token_s: float


PRIOR = StepTime(28.6e-3, 0.15e-3, 0.20e-3, 1.1e-7)
"""An A10 with a 7B model in bf16 (`vllm_mock.engine.speed`: derived from public measurements). The unit of the moments;
before anything is learned also the estimate."""


class StepWork(msgspec.Struct, frozen=True, gc=False):
    """What a server computed in a stretch of time without idle gaps."""

    seconds: float
    steps: float
    decode_tokens: float
    prompt_tokens: float
    """Computed, without those of the prefix cache."""
    context_tokens: float
    """Read by attention, summed over the steps."""

    def plus(self, other: "StepWork") -> "StepWork":
        """Both together."""
        return StepWork(
            self.seconds + other.seconds,
            self.steps + other.steps,
            self.decode_tokens + other.decode_tokens,
            self.prompt_tokens + other.prompt_tokens,
            self.context_tokens + other.context_tokens,
        )


class Moments:
    """Weighted sums of a regression: products of the inputs, and the inputs. The target of each observation is 1."""

    __slots__ = ("inputs", "products", "weight")

    def __init__(self) -> None:
        self.weight = 0.0
        self.inputs = [0.0] * COEFFICIENTS
        self.products = [[0.0] * COEFFICIENTS for _ in range(COEFFICIENTS)]

    def add(self, row: Sequence[float], weight: float, kept: float) -> None:
        """Add an observation; earlier ones keep the share `kept` of their weight."""
        self.weight = kept * self.weight + weight
        for index, value in enumerate(row):
            self.inputs[index] = kept * self.inputs[index] + weight * value
            products = self.products[index]
            for other, second in enumerate(row):
                products[other] = kept * products[other] + weight * value * second

    def add_scaled(self, other: "Moments", scale: float) -> None:
        """Add the observations of `other` with their inputs times `scale`."""
        self.weight += other.weight
        for index in range(COEFFICIENTS):
            self.inputs[index] += scale * other.inputs[index]
            products, second = self.products[index], other.products[index]
            for column in range(COEFFICIENTS):
                products[column] += scale * scale * second[column]

    def scale(self, factors: Sequence[float]) -> float:
        """The common multiple of `factors` that fits best: sum of x / sum of x², where x is the prediction."""
        products = self.products
        square = sum(
            factors[row] * factors[column] * products[row][column]
            for row in range(COEFFICIENTS)
            for column in range(COEFFICIENTS)
        )
        predicted = sum(factor * value for factor, value in zip(factors, self.inputs, strict=True))
        return predicted / square if square > 0.0 else 1.0

    def solve(self, shape_weight: float, max_factor: float) -> list[float]:
        """The factors of least squared error plus `shape_weight` times their squared distance from a common scale.
        Each is at most `max_factor` times the scale, and at least the inverse."""
        squares = sum(map(sum, self.products))
        if not squares > 0.0:
            return [1.0] * COEFFICIENTS
        scale = sum(self.inputs) / squares
        # Relative to the scale, so that the weight of the shape does not depend on it.
        matrix = [[scale * scale * value for value in row] for row in self.products]
        target = [scale * value + shape_weight for value in self.inputs]
        for index in range(COEFFICIENTS):
            matrix[index][index] += shape_weight
        return [
            scale * min(max_factor, max(1.0 / max_factor, factor))
            for factor in _solve_positive_definite(matrix, target)
        ]


class StepTimeEstimate:
    """The observations of one server. What is learned from it is bounded by `Moments.solve`."""

    __slots__ = ("_pending", "_pending_at_start", "_window", "moments", "pool_time")

    def __init__(self) -> None:
        self.moments = Moments()
        self.pool_time = PRIOR
        """Of the pool's servers, at their mean scale, as it was last solved (`scheduling.terms.step_time`)."""
        self._window: StepWork | None = None
        self._pending = self._pending_at_start = 0.0

    def scraped(self, work: StepWork | None, pending_tokens: float) -> None:
        """Take in the work between the last two scrapes; None if the server may have been idle in between.
        `pending_tokens`: prompt tokens that are admitted and not yet counted as computed, plus any constant."""
        pending_before, self._pending = self._pending, pending_tokens
        window = self._window
        if work is None or work.seconds + (window.seconds if window is not None else 0.0) > MAX_WINDOW_S:
            self._window = None
            return
        if window is None:
            self._pending_at_start = pending_before
        else:
            work = window.plus(work)
        change = abs(pending_tokens - self._pending_at_start)
        if work.seconds >= WINDOW_S and change <= PENDING_SHARE * work.prompt_tokens:
            self._window = None
            self._observe(work)
        else:
            self._window = work

    def _observe(self, work: StepWork) -> None:
        if not work.steps > 0.0:
            return
        # In units of the prior's time for each part, relative to the time that all took.
        row = [
            PRIOR.base_s * work.steps / work.seconds,
            PRIOR.per_sequence_s * work.decode_tokens / work.seconds,
            PRIOR.per_prompt_token_s * work.prompt_tokens / work.seconds,
            PRIOR.per_context_token_s * work.context_tokens / work.seconds,
        ]
        weight = work.seconds
        if self.moments.weight > ROBUST_FROM_S:
            factors = self.moments.solve(SHAPE_WEIGHT, MAX_SHAPE_FACTOR)
            excess = sum(factor * value for factor, value in zip(factors, row, strict=True)) - 1.0
            if excess > ROBUST_ERROR:
                weight *= (ROBUST_ERROR / excess) ** 2
        self.moments.add(row, weight, MEMORY**work.seconds)


SHAPE_WEIGHT = 0.05
"""Weight of the prior's shape in the regression, in busy seconds times squared relative errors. Judgement: an
observation is off by 5 %, a coefficient of the prior by 30 %."""

MAX_SHAPE_FACTOR = 8.0
"""A coefficient is at most this many times the prior's at its scale: a server's counters are its own claim."""


def _solve_positive_definite(matrix: list[list[float]], target: list[float]) -> list[float]:
    """Solve a symmetric positive definite system by elimination. Changes its arguments."""
    size = len(target)
    for pivot in range(size):
        row, inverse = matrix[pivot], 1.0 / matrix[pivot][pivot]
        for below in range(pivot + 1, size):
            factor = matrix[below][pivot] * inverse
            for column in range(pivot, size):
                matrix[below][column] -= factor * row[column]
            target[below] -= factor * target[pivot]
    found = [0.0] * size
    for pivot in range(size - 1, -1, -1):
        rest = sum(matrix[pivot][column] * found[column] for column in range(pivot + 1, size))
        found[pivot] = (target[pivot] - rest) / matrix[pivot][pivot]
    return found
