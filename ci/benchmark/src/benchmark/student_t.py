"""Quantiles of Student's t distribution, for 95 % intervals of means of few values."""

import math
from collections.abc import Sequence
from statistics import stdev

_TABLE = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Two-sided 95 % quantiles for 1, 2, ... degrees of freedom (published table)."""
_NORMAL = 1.959964
"""The quantile of the normal distribution: the limit for many degrees of freedom."""


def student_t_95(degrees: int) -> float:
    """The two-sided 95 % quantile for `degrees` of freedom (1 or more), exact to 0.001.

    Beyond the table: the Cornish-Fisher expansion (Abramowitz and Stegun, 26.7.5)."""
    if degrees <= len(_TABLE):
        return _TABLE[degrees - 1]
    z = _NORMAL
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def half_width_95(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval for the mean of two or more values."""
    return student_t_95(len(values) - 1) * stdev(values) / math.sqrt(len(values))
