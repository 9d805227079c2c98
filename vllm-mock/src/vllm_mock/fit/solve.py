"""Least squares for the speed model.

In a closed loop of n requests with I tokens in and O out, a step decodes n sequences, reads n contexts of I + O/2, and
computes the prompts of those (n - 1)/O others that have just replaced finished ones:

    TPOT = a + b n + c (n - 1) I/O + d n (I + O/2)

A request is sent when another ends, which is when a step ends, and the next computes its prompt beside the others:

    TTFT = a + b (n - 1) + c (I + (n - 1) I/O) + d (n - 1) (I + O/2)

Where prompts fill whole steps these are only near. So what the engine itself makes of a solution is put beside them,
and they are solved again for measurements corrected by that ratio.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vllm_mock.engine.speed import StepTime
from vllm_mock.fit.closed_loop import measure
from vllm_mock.fit.measurements import Measurement

_NAMES = ("a", "b", "c", "d")
_GIVEN_UP = (3, 1, 2, 0)
"""In this order: measurements of one length cannot tell d from b, those at one concurrency neither from a."""
_CORRECTIONS = 3
_LARGEST_CORRECTION = (0.5, 2.0)
_LEAST_SINGULAR = 1e-6
"""Below this share of the greatest, two columns are the same for these measurements."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The model that is nearest to the measurements, each weighted by its size."""

    step_time: StepTime
    undetermined: tuple[str, ...]
    """Coefficients set to 0, because the measurements cannot tell them from others (all at one concurrency, or all of
    the same lengths) or would have them negative."""


def fit(measurements: Sequence[Measurement]) -> Fit:
    """Raises ValueError without measurements."""
    if not measurements:
        raise ValueError("there is nothing to fit")
    rows, measured = _equations(measurements)
    values = measured
    for _ in range(_CORRECTIONS):
        found, coefficients = _solve(rows / values[:, None])
        _, mock = _equations([measure(found.step_time, each) for each in measurements])
        values = measured * np.clip((rows @ coefficients) / mock, *_LARGEST_CORRECTION)
    return _solve(rows / values[:, None])[0]


def _solve(rows: NDArray[np.float64]) -> tuple[Fit, NDArray[np.float64]]:
    """For equations whose values are 1."""
    values = np.ones(len(rows))
    kept = list(range(len(_NAMES)))
    while True:
        solution = _solved(rows[:, kept], values)
        if solution is None:
            kept.remove(next(at for at in _GIVEN_UP if at in kept))
        elif len(kept) > 1 and solution.min() < 0:
            kept.remove(kept[int(solution.argmin())])
        else:
            break
    coefficients = np.zeros(len(_NAMES))
    coefficients[kept] = solution
    undetermined = tuple(name for at, name in enumerate(_NAMES) if at not in kept)
    return Fit(StepTime(*map(float, coefficients)), undetermined), coefficients


def _equations(measurements: Sequence[Measurement]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients of a, b, c, d, and seconds: two rows for each measurement."""
    rows: list[tuple[float, float, float, float]] = []
    values: list[float] = []
    for each in measurements:
        n, prompt, context = each.concurrency, each.input_tokens, each.context_tokens
        others = (n - 1) * prompt / each.output_tokens
        rows.append((1.0, n, others, n * context))
        values.append(each.tpot_ms / 1000)
        rows.append((1.0, n - 1, prompt + others, (n - 1) * context))
        values.append(each.ttft_ms / 1000)
    return np.array(rows, dtype=np.float64), np.array(values, dtype=np.float64)


def _solved(rows: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """None when the columns are not independent."""
    scale = np.linalg.norm(rows, axis=0)
    if not scale.all():
        return None
    scaled = rows / scale
    singular = np.linalg.svd(scaled, compute_uv=False)
    if len(singular) < rows.shape[1] or singular[-1] < _LEAST_SINGULAR * singular[0]:
        return None
    solution, *_ = np.linalg.lstsq(scaled, values, rcond=None)  # pyright: ignore[reportUnknownVariableType]
    return np.asarray(solution, dtype=np.float64) / scale
