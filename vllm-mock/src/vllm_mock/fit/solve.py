"""Least-squares fit of the speed model.

Requests have I input and O output tokens. In a closed loop of n requests, a step decodes n sequences and reads n
contexts of I + O/2 tokens. It also prefills the (n - 1)/O other prompts that have just replaced finished requests:

    TPOT = a + b n + c (n - 1) I/O + d n (I + O/2)

A request is sent when another ends, which is at the end of a step. The next step prefills it together with the others:

    TTFT = a + b (n - 1) + c (I + (n - 1) I/O) + d (n - 1) (I + O/2)

If prompts fill whole steps, the equations are approximations. So the engine simulates each solution, the measurements
are corrected by the ratio of equations to simulation, and the equations are solved again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vllm_mock.engine.speed import StepTime
from vllm_mock.fit.closed_loop import measure
from vllm_mock.fit.measurements import Measurement

_NAMES = ("a", "b", "c", "d")
_DROP_ORDER = (3, 1, 2, 0)
"""Order in which undetermined coefficients are dropped, as indices of `_NAMES`. Measurements of one length cannot
separate d from b. Those at one concurrency cannot separate either from a."""
_CORRECTIONS = 3
_LARGEST_CORRECTION = (0.5, 2.0)
_LEAST_SINGULAR = 1e-6
"""Columns whose singular value is below this share of the greatest count as linearly dependent. Judgement."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The best fit to the measurements, by relative error."""

    step_time: StepTime
    undetermined: tuple[str, ...]
    """Coefficients set to 0. The measurements cannot separate them from others (all at one concurrency, or all of the
    same lengths), or would make them negative."""


def fit(measurements: Sequence[Measurement]) -> Fit:
    """Fits the speed model. Raises ValueError without measurements."""
    if not measurements:
        raise ValueError("no measurements to fit")
    rows, measured = _equations(measurements)
    values = measured
    for _ in range(_CORRECTIONS):
        found, coefficients = _solve(rows / values[:, None])
        _, mock = _equations([measure(found.step_time, measured) for measured in measurements])
        values = measured * np.clip((rows @ coefficients) / mock, *_LARGEST_CORRECTION)
    return _solve(rows / values[:, None])[0]


def _solve(rows: NDArray[np.float64]) -> tuple[Fit, NDArray[np.float64]]:
    """Solves the equations `rows`, whose right-hand sides are scaled to 1."""
    values = np.ones(len(rows))
    kept = list(range(len(_NAMES)))
    while True:
        solution = _solved(rows[:, kept], values)
        if solution is None:
            kept.remove(next(at for at in _DROP_ORDER if at in kept))
        elif len(kept) > 1 and solution.min() < 0:
            kept.remove(kept[int(solution.argmin())])
        else:
            break
    coefficients = np.zeros(len(_NAMES))
    coefficients[kept] = solution
    undetermined = tuple(name for at, name in enumerate(_NAMES) if at not in kept)
    return Fit(StepTime(*map(float, coefficients)), undetermined), coefficients


def _equations(measurements: Sequence[Measurement]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients of a, b, c and d, and right-hand sides in seconds. Two rows (TPOT, TTFT) for each measurement."""
    rows: list[tuple[float, float, float, float]] = []
    values: list[float] = []
    for measured in measurements:
        n, prompt, context = measured.concurrency, measured.input_tokens, measured.context_tokens
        others = (n - 1) * prompt / measured.output_tokens
        rows.append((1.0, n, others, n * context))
        values.append(measured.tpot_ms / 1000)
        rows.append((1.0, n - 1, prompt + others, (n - 1) * context))
        values.append(measured.ttft_ms / 1000)
    return np.array(rows, dtype=np.float64), np.array(values, dtype=np.float64)


def _solved(rows: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The least-squares solution. None if the columns are linearly dependent."""
    scale = np.linalg.norm(rows, axis=0)
    if not scale.all():
        return None
    scaled = rows / scale
    singular = np.linalg.svd(scaled, compute_uv=False)
    if len(singular) < rows.shape[1] or singular[-1] < _LEAST_SINGULAR * singular[0]:
        return None
    solution, *_ = np.linalg.lstsq(scaled, values, rcond=None)  # pyright: ignore[reportUnknownVariableType]
    return np.asarray(solution, dtype=np.float64) / scale
