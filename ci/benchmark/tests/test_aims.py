"""What a comparison was meant to show, and whether it has."""

import argparse
import math
from dataclasses import replace

import pytest
from benchmark.compare.aims import Outcome, judge_aims
from benchmark.compare.rounds import Comparison, compare
from benchmark.compare.verdict import Better, ratio_of
from benchmark.settings.values import aim
from model_server import ModelServer, model_server
from test_compare import plan

STEADY, NOISY = (1.0, 1.01, 0.99, 1.0), (1.0, 4.0, 0.3, 1.0)


def of(factor: float, noise: tuple[float, ...] = STEADY, better: Better = Better.LOWER):
    """The ratio of a figure that is `factor` times the first contender's, give or take."""
    return ratio_of([10.0] * len(noise), [10 * factor * each for each in noise], better)


@pytest.mark.parametrize(
    ("said", "factor", "noise", "outcome"),
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
def test_an_aim_is_missed_only_by_more_than_the_noise(
    said: str, factor: float, noise: tuple[float, ...], outcome: Outcome
) -> None:
    assert aim(said).outcome(of(factor, noise)) is outcome


@pytest.mark.parametrize("said", ["TTFT p50", "TTFT<=0.5", "TTFT p50<=0", "TTFT p50=0.5", "TTFT p50<=fast"])
def test_what_is_no_aim_is_refused_with_the_figures_there_are(said: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"allowed is FIGURE<=RATIO .* TTFT p50, "):
        aim(said)


async def _compared(server: ModelServer) -> Comparison:
    """The second server takes ten times as long for a token."""
    server.token_gap_s = 0.003
    async with model_server() as other:
        other.token_gap_s = 0.03
        return await compare(replace(plan(server, other, rounds=4), replicas=()))


async def test_aims_are_told_with_what_was_wanted_and_found(server: ModelServer) -> None:
    wanted = [aim("TPOT p50<=1"), aim("tpot p90>=1"), aim("KV cache spread (std)<=0.5")]
    slow, fast, absent = judge_aims(await _compared(server), wanted)
    assert slow.sentence.startswith("TPOT p50, server 1 / server 0: at most 1 is wanted, found is ")
    assert (slow.missed, fast.missed, absent.missed) == (True, False, True)
    assert absent.sentence.endswith("found is - (-): missed, for there is no such ratio")
