"""The step time of a pool's servers, from what was observed of each."""

from collections.abc import Sequence
from math import exp, inf, log

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.load.step_time import (
    COEFFICIENTS,
    MAX_SHAPE_FACTOR,
    PRIOR,
    SHAPE_WEIGHT,
    Moments,
    StepTime,
)

MAX_AGE_S = 1.0
"""How long a solution is kept: a server has one new observation a second at most. Measured: solving takes 6 us for each
endpoint."""


class PoolStepTime:
    """One shape for all servers of a pool, at their mean scale. Each server's own scale is its slowness.

    Servers of a pool run one model, so the ratios of the coefficients differ less than their scale. Together they are
    known well: the error of one server's coefficient of prompt tokens is 10 to 20 %."""

    def __init__(self) -> None:
        self.time = PRIOR
        """The prior before anything was observed."""
        self._factors: Sequence[float] = (1.0,) * COEFFICIENTS
        self._expires_s = -inf

    def observe(self, endpoints: Sequence[Endpoint], now_s: float) -> None:
        """Solve for the observations of `endpoints`, if the last solution is older than MAX_AGE_S. Each of them gets
        the newest solution."""
        if now_s >= self._expires_s:
            self._expires_s = now_s + MAX_AGE_S
            self._solve(endpoints)
        for endpoint in endpoints:
            endpoint.step_time.pool_time = self.time

    def _solve(self, endpoints: Sequence[Endpoint]) -> None:
        known = [moments for endpoint in endpoints if (moments := endpoint.step_time.moments).weight > 0.0]
        if not known:
            return
        pooled = Moments()
        for moments in known:
            pooled.add_scaled(moments, moments.scale(self._factors))
        self._factors = factors = pooled.solve(SHAPE_WEIGHT, MAX_SHAPE_FACTOR)
        scale = exp(sum(moments.weight * log(moments.scale(factors)) for moments in known) / pooled.weight)
        self.time = StepTime(*(scale * factor * unit for factor, unit in zip(factors, PRIOR, strict=True)))
