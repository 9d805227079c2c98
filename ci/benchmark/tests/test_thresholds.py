"""Thresholds of a comparison, and their outcome."""

import argparse
import math
from dataclasses import replace

import pytest
from benchmark.compare.rounds import Comparison, compare
from benchmark.compare.thresholds import Outcome, judge_thresholds
from benchmark.compare.verdict import Better, Ratio, ratio_of
from benchmark.settings.values import threshold
from model_server import ModelServer, model_server
from test_compare import plan

STEADY, NOISY = (1.0, 1.01, 0.99, 1.0), (1.0, 4.0, 0.3, 1.0)


def noisy_ratio(factor: float, noise: tuple[float, ...] = STEADY, better: Better = Better.LOWER) -> Ratio:
    """The ratio of a figure that is `factor` times the first contender's, with `noise` in each round."""
    return ratio_of([10.0] * len(noise), [10 * factor * deviation for deviation in noise], better)


@pytest.mark.parametrize(
    ("text", "factor", "noise", "outcome"),
    [
        ("TTFT p50<=0.5", 0.4, STEADY, Outcome.MET),
        ("TTFT p50<=0.5", 0.6, STEADY, Outcome.MISSED),
        ("TTFT p50<=0.5", 0.6, NOISY, Outcome.OPEN),
        ("Output throughput>=1.5", 1.6, STEADY, Outcome.MET),
        ("Output throughput>=1.5", 1.4, STEADY, Outcome.MISSED),
        ("Output throughput >= 1.5", 1.3, NOISY, Outcome.OPEN),
        ("TTFT p50<=0.5", 0.4, (1.0,), Outcome.OPEN),
        ("TTFT p50<=0.5", math.nan, STEADY, Outcome.UNKNOWN),
    ],
)
def test_a_threshold_is_missed_only_by_more_than_the_noise(
    text: str, factor: float, noise: tuple[float, ...], outcome: Outcome
) -> None:
    assert threshold(text).outcome(noisy_ratio(factor, noise)) is outcome


@pytest.mark.parametrize("text", ["TTFT p50", "TTFT<=0.5", "TTFT p50<=0", "TTFT p50=0.5", "TTFT p50<=fast"])
def test_an_invalid_threshold_is_rejected_with_the_allowed_figures(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"allowed is FIGURE<=RATIO .* TTFT p50, "):
        threshold(text)


async def _compared(server: ModelServer) -> Comparison:
    """A comparison in which the second server takes ten times as long for a token."""
    server.token_gap_s = 0.003
    async with model_server() as other:
        other.token_gap_s = 0.03
        return await compare(replace(plan(server, other, rounds=4), replicas=()))


async def test_a_threshold_is_reported_with_the_required_and_the_found_ratio(server: ModelServer) -> None:
    required = [threshold("TPOT p50<=1"), threshold("tpot p90>=1"), threshold("KV cache spread (std)<=0.5")]
    slow, fast, absent = judge_thresholds(await _compared(server), required)
    assert slow.sentence.startswith("TPOT p50, server 1 / server 0: at most 1 is required, found ")
    assert (slow.missed, fast.missed, absent.missed) == (True, False, True)
    assert absent.sentence.endswith("found - (-): missed, there is no such ratio")
