"""Comparing targets: rounds, conclusions, table and plot."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmark.compare.rounds import CompareProgress, Comparison, Contender, Plan, Run, compare
from benchmark.compare.table import comparison_table, conclusions, format_value
from benchmark.compare.verdict import FIGURES_BY_NAME, Better, Conclusion, judge, ratio_of
from benchmark.datasets.random_lengths import RandomLengths, random_workload
from benchmark.load.pace import Pace
from benchmark.load.target import Target
from benchmark.replicas.watch import replica_at
from benchmark.report.plots import kv_usage_figure, save_kv_usage
from benchmark.tokens.approximate import ApproximateTokenizer
from benchmark.workload import Workload
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from model_server import ModelServer, model_server
from rich.console import Console


def workload(seed: int) -> Workload:
    return random_workload(RandomLengths(4, 2, 10, 5, 0.3), ApproximateTokenizer(), seed)


def plan(*servers: ModelServer, rounds: int = 2) -> Plan:
    return Plan(
        contenders=tuple(Contender(f"server {index}", Target(server.url, "m")) for index, server in enumerate(servers)),
        workload=workload,
        pace=Pace(2),
        rounds=rounds,
        replicas=tuple(replica_at(f"replica {index}={server.url}") for index, server in enumerate(servers)),
        interval_s=0.01,
    )


def printed(comparison: Comparison) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(comparison_table(comparison))
        for sentence in conclusions(comparison):
            console.print(sentence, soft_wrap=True)
    return capture.get()


async def test_the_order_reverses_from_round_to_round(server: ModelServer) -> None:
    """The order A B B A is visible in the reported progress."""
    reports: list[CompareProgress] = []
    async with model_server() as other:
        comparison = await compare(plan(server, other, rounds=3), reports.append)
    runs = list(dict.fromkeys((report.round_number, report.contender) for report in reports))
    a, b = "server 0", "server 1"
    assert runs == [(1, a), (1, b), (2, b), (2, a), (3, a), (3, b)]
    assert [[run.contender.name for run in runs] for runs in comparison.rounds] == [[a, b]] * 3
    assert reports[-1].run.done == reports[-1].run.total == 4


async def test_contenders_of_a_round_get_equal_prompts_after_different_lines(server: ModelServer) -> None:
    """A cache filled by one contender therefore does not help another one, nor a later round."""
    async with model_server() as other:
        await compare(plan(server, other))
        sent = [[body["prompt"].split("\n", 1) for body in model.bodies] for model in (server, other)]
    first, second = ([sorted(text for _, text in prompts[start : start + 4]) for start in (0, 4)] for prompts in sent)
    assert first == second
    assert first[0] != first[1]
    lines = [{line for line, _ in prompts[start : start + 4]} for prompts in sent for start in (0, 4)]
    assert list(map(len, lines)) == [1] * 4
    assert len(set.union(*lines)) == 4


async def test_warm_up_requests_are_sent_first_and_not_measured(server: ModelServer) -> None:
    async with model_server() as other:
        comparison = await compare(replace(plan(server, other, rounds=1), warmups=3))
        assert len(server.bodies) == len(other.bodies) == 3 + 4
    assert len({body["prompt"] for body in server.bodies[:3]}) == 1
    assert [run.summary.completed for run in comparison.rounds[0]] == [4, 4]


async def test_an_invalid_target_is_rejected_before_the_first_request(server: ModelServer) -> None:
    bad = Plan((Contender("a", Target(server.url, "m")), Contender("b", Target("b:80", "m"))), workload, Pace(1))
    with pytest.raises(ValueError, match="allowed is http"):
        await compare(bad)
    assert not server.bodies


async def test_failed_requests_are_reported_before_any_conclusion(server: ModelServer) -> None:
    async with model_server() as other:
        other.reject_status = 503
        text = printed(await compare(plan(server, other)))
    assert "Requests failed: 8 of server 1; all figures are of the successful ones." in text


@pytest.mark.parametrize(("failing", "failed"), [(0, True), (1, True), (None, False)])
async def test_failed_requests_fail_a_comparison(server: ModelServer, failing: int | None, failed: bool) -> None:
    async with model_server() as other:
        if failing is not None:
            (server, other)[failing].reject_status = 503
        assert (await compare(plan(server, other))).failed is failed


async def test_a_few_failures_of_the_first_target_are_tolerated(server: ModelServer) -> None:
    """The first target is the baseline: a plain Service, which does not retry."""
    async with model_server() as other:
        comparison = await compare(replace(plan(server, other, rounds=1), replicas=()))
    first, second = comparison.rounds[0]
    one_in_two_hundred = replace(
        first, result=replace(first.result, samples=first.result.samples * 50), summary=replace(first.summary, failed=1)
    )
    assert not replace(comparison, rounds=((one_in_two_hundred, second),)).failed
    assert replace(comparison, rounds=((first, replace(second, summary=one_in_two_hundred.summary)),)).failed


async def test_a_large_difference_is_concluded_and_an_absent_one_is_not(server: ModelServer) -> None:
    """The second server takes twenty times as long for a token."""
    server.token_gap_s = 0.003
    async with model_server() as other:
        other.token_gap_s = 0.06
        comparison = await compare(plan(server, other, rounds=4))
    rows = {row.figure.name: row.ratios[0] for row in judge(comparison)}
    assert rows["TPOT p50"].conclusion is Conclusion.WORSE
    assert rows["Failed requests"].conclusion is Conclusion.NO_RATIO
    # Whether other figures are worse depends on the noise of the machine.
    assert "TPOT p50" in printed(comparison).partition("server 1 is worse than server 0 in: ")[2].splitlines()[0]


async def test_one_round_concludes_nothing(server: ModelServer) -> None:
    async with model_server() as other:
        text = printed(await compare(plan(server, other, rounds=1)))
    assert "No conclusion from one round; --rounds 4 or more shows the noise." in text
    assert " is better " not in text
    assert " is worse " not in text


@given(
    st.lists(st.floats(1, 1000), min_size=2, max_size=30),
    st.floats(0.01, 100),
    st.sampled_from(Better),
)
def test_a_constant_ratio_is_found_whatever_the_rounds(values: list[float], ratio: float, better: Better) -> None:
    """A change of both contenders in a round is no noise."""
    found = ratio_of(values, [value * ratio for value in values], better)
    assert found.mean == pytest.approx(ratio)
    if abs(math.log(ratio)) > 1e-6:
        assert found.conclusion is (Conclusion.BETTER if (ratio > 1) == (better is Better.HIGHER) else Conclusion.WORSE)


def test_noise_is_concluded_as_a_difference_in_one_of_twenty_cases() -> None:
    """A 95 % interval misses in one case of twenty. With the t distribution this holds even for four rounds."""
    numbers = np.random.default_rng(0)

    def noisy() -> list[float]:
        return list(numbers.lognormal(0, 0.3, 4))

    concluded = sum(
        ratio_of(noisy(), noisy(), Better.HIGHER).conclusion is not Conclusion.WITHIN_NOISE for _ in range(2000)
    )
    assert 0.03 < concluded / 2000 < 0.07


@pytest.mark.parametrize(
    ("base", "other"), [([0.0, 1.0], [1.0, 1.0]), ([1.0, math.nan], [1.0, 1.0]), ([], []), ([1.0, 1.0], [0.0, 1.0])]
)
def test_zeros_and_gaps_have_no_ratio(base: Sequence[float], other: Sequence[float]) -> None:
    assert ratio_of(base, other, Better.LOWER).conclusion is Conclusion.NO_RATIO


async def test_the_plot_has_a_pane_for_each_target_and_a_line_for_each_replica(
    server: ModelServer, tmp_path: Path
) -> None:
    server.metrics = "vllm:kv_cache_usage_perc 0.5\n"
    async with model_server() as other:
        other.metrics = "vllm:kv_cache_usage_perc 0.25\n"
        comparison = await compare(plan(server, other, rounds=1))
    figure = kv_usage_figure(comparison.rounds[0])
    assert [pane.get_title().splitlines() for pane in figure.axes] == [
        [name, "spread between replicas (std): 12.5 %"] for name in ("server 0", "server 1")
    ]
    assert [len(pane.get_lines()) for pane in figure.axes] == [2, 2]
    save_kv_usage(comparison, tmp_path / "made" / "kv.png")
    assert (tmp_path / "made" / "kv.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["a", "qwen-l20-57d7db6cf5-gbvqp", "a-deployment-of-a-long-name-67d7db6cf5-gbvqp"])
async def test_the_legend_of_a_plot_fits_into_it(server: ModelServer, name: str) -> None:
    """Names of pods may be long."""
    server.metrics = "vllm:kv_cache_usage_perc 0.5\n"
    replicas = tuple(replica_at(f"{name}-{index}={server.url}") for index in range(8))
    comparison = await compare(replace(plan(server, server, rounds=1), replicas=replicas))
    figure = kv_usage_figure(comparison.rounds[0])
    FigureCanvasAgg(figure).draw()
    [legend] = figure.legends
    shown = legend.get_window_extent()
    assert len(legend.get_texts()) == len(replicas)
    assert shown.x0 >= 0
    assert shown.x1 <= figure.bbox.x1


def test_a_mean_of_counts_keeps_its_decimals() -> None:
    """Six failures in four rounds are 1.5 per round, not 2."""
    assert [format_value(count, FIGURES_BY_NAME["Failed requests"]) for count in (0.0, 3.0, 1.5)] == ["0", "3", "1.50"]


async def test_replicas_without_metrics_give_no_row(server: ModelServer) -> None:
    async with model_server() as other:
        comparison = await compare(plan(server, other, rounds=1))
    assert not [row for row in judge(comparison) if "KV" in row.figure.name or "Prefix" in row.figure.name]
    assert all(isinstance(run, Run) for run in comparison.runs_of(1))
