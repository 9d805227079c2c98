"""Whether two orders of strategies are the same, as far as that can be told."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

CLOSE = 1.25
"""Two whose figures differ by less are not told apart: that is what a single run through Envoy scatters by."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Pairs of strategies, the better one first in each."""

    same: tuple[tuple[str, str], ...]
    close: tuple[tuple[str, str], ...]
    """Not told apart on one side, or on both."""
    opposite: tuple[tuple[str, str], ...]
    """Named as the simulator has them."""


def agreement(simulated: Mapping[str, float], measured: Mapping[str, float]) -> Agreement:
    """Both by strategy; less is better."""
    same: list[tuple[str, str]] = []
    close: list[tuple[str, str]] = []
    opposite: list[tuple[str, str]] = []
    for pair in combinations(sorted(simulated, key=simulated.__getitem__), 2):
        better, worse = pair
        if _are_close(simulated[better], simulated[worse]) or _are_close(measured[better], measured[worse]):
            close.append(pair)
        elif measured[better] < measured[worse]:
            same.append(pair)
        else:
            opposite.append(pair)
    return Agreement(tuple(same), tuple(close), tuple(opposite))


def _are_close(one: float, other: float) -> bool:
    return max(one, other) < CLOSE * min(one, other)
