"""Compares two orders of strategies, with a tolerance for noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

CLOSE = 1.25
"""Ratio of two figures below which their order is undecided. Measured: the spread of single runs through Envoy."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Pairs of strategies, with the better one first."""

    same: tuple[tuple[str, str], ...]
    close: tuple[tuple[str, str], ...]
    """Pairs closer than CLOSE on one side or both."""
    opposite: tuple[tuple[str, str], ...]
    """Pairs in the simulator's order."""


def agreement(simulated: Mapping[str, float], measured: Mapping[str, float]) -> Agreement:
    """Compares figures by strategy. Lower is better."""
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
