"""Parsers of flag values. Each raises ArgumentTypeError with what is allowed."""

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

from benchmark.compare.thresholds import Threshold
from benchmark.compare.verdict import FIGURES
from benchmark.replicas.watch import Replica, replica_at

_T = TypeVar("_T")


def whole(least: int) -> Callable[[str], int]:
    """Returns a parser of whole numbers from `least` on."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"found {text}; allowed is a whole number from {least} on")
        return value

    return read


def positive(text: str) -> float:
    """A number above 0; infinity is allowed."""
    value = _number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"found {text}; allowed is a number above 0, or inf")
    return value


def ratio(text: str) -> float:
    """A number from 0 to 1."""
    return _between(text, 1)


def percentile(text: str) -> float:
    """A number from 0 to 100."""
    return _between(text, 100)


def split(kind: Callable[[str], _T]) -> Callable[[str], tuple[_T, ...]]:
    """Returns a parser of comma-separated values, each parsed by `kind`."""

    def read(text: str) -> tuple[_T, ...]:
        try:
            return tuple(kind(part.strip()) for part in text.split(","))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def pair(text: str) -> tuple[str, str]:
    """NAME=VALUE; neither may be empty."""
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is NAME=VALUE")
    return key, value


def goal(text: str) -> tuple[str, float]:
    """METRIC:MS, as `--goodput` takes it."""
    name, _, value = text.partition(":")
    if name not in ("ttft", "tpot", "e2el") or not _number(value) > 0:
        raise argparse.ArgumentTypeError(
            f"found {text!r}; allowed is METRIC:MS with one of ttft, tpot, e2el, such as ttft:300"
        )
    return name, float(value)


def threshold(text: str) -> Threshold:
    """A figure, `<=` or `>=`, and a ratio, such as `TTFT p50<=0.5`."""
    name, sign, bound = text.partition("<=") if "<=" in text else text.partition(">=")
    figure = next((figure for figure in FIGURES if figure.name.lower() == name.strip().lower()), None)
    if figure is None or not 0 < _number(bound) < math.inf:
        names = ", ".join(figure.name for figure in FIGURES)
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is FIGURE<=RATIO or FIGURE>=RATIO, of {names}")
    return Threshold(figure, _number(bound), at_most=sign == "<=")


def replica(text: str) -> Replica:
    """A replica; see `replica_at`."""
    try:
        return replica_at(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _between(text: str, most: int) -> float:
    value = _number(text)
    if not 0 <= value <= most:
        raise argparse.ArgumentTypeError(f"found {text}; allowed is 0 to {most}")
    return value


def _number(text: str) -> float:
    """The number, or NaN if `text` is none. NaN is never allowed."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
