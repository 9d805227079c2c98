"""Records of comparisons, and the history that later comparisons are judged by."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from benchmark.compare.history import MOST_RUNS, baseline_sentence, comparable, compare_with_baseline, regressions
from benchmark.compare.record import (
    BadHistory,
    ContenderRecord,
    FigureRecord,
    Record,
    add_to_history,
    read_history,
    read_record,
    record_of,
    save_record,
)
from benchmark.compare.rounds import Contender, Plan, compare
from benchmark.compare.verdict import Better
from benchmark.datasets.random_lengths import RandomLengths, random_workload
from benchmark.load.pace import Pace
from benchmark.load.target import Target
from benchmark.report.page import Chapter, report_html
from benchmark.tokens.approximate import ApproximateTokenizer
from benchmark.workload import Workload
from model_server import ModelServer, model_server


def record(throughput: float, ttft: float = 100.0, load: str = "random", failed: int = 0) -> Record:
    def figure(name: str, unit: str, better: Better, mean: float) -> FigureRecord:
        return FigureRecord(name, unit, better, (mean, mean), mean)

    figures = (
        figure("Output throughput", "tok/s", Better.HIGHER, throughput),
        figure("TTFT p90", "ms", Better.LOWER, ttft),
        figure("Failed requests", "", Better.LOWER, 0.0),
    )
    return Record(
        datetime(2026, 1, 1), load, failed, (ContenderRecord("picked", "http://g", figures),), (), bool(failed)
    )


def workload(seed: int) -> Workload:
    return random_workload(RandomLengths(4, 2, 10, 5), ApproximateTokenizer(), seed)


USUAL = [record(value) for value in (1000, 1020, 990, 1010)]


def test_a_figure_beyond_the_usual_range_is_a_regression() -> None:
    """The noise of the earlier runs is below 5 %, so 5 % around their geometric mean, 1,004.9, is allowed."""
    assert list(regressions(record(800), USUAL)) == [
        "picked: Output throughput 800 tok/s, usual in the last 4 good runs is 957.1 to 1,055"
    ]
    (sentence,) = regressions(record(1000, ttft=130), USUAL)
    assert sentence.startswith("picked: TTFT p90 130 ms")


@pytest.mark.parametrize(("throughput", "ttft"), [(1000, 100), (1300, 100), (1000, 50), (965, 104)])
def test_a_figure_that_is_better_or_usual_is_no_regression(throughput: float, ttft: float) -> None:
    assert not list(regressions(record(throughput, ttft), USUAL))


def test_noisy_runs_widen_the_usual_range() -> None:
    """If the earlier runs differ by a third, 20 % less is no regression."""
    noisy = [record(value) for value in (1000, 1300, 800, 1150, 900)]
    assert not list(regressions(record(800), noisy))


@pytest.mark.parametrize("past", [[], USUAL[:2]])
def test_two_runs_give_no_usual_range(past: Sequence[Record]) -> None:
    assert not list(regressions(record(1), past))


def test_the_second_run_is_compared_with_the_first_without_a_usual_range() -> None:
    throughput, ttft, failed = compare_with_baseline(record(900, ttft=300), [record(1000)])
    assert (throughput.figure.mean, throughput.mean, throughput.usual) == (900, 1000, None)
    assert not any(compared.worse for compared in (throughput, ttft, failed))


@pytest.mark.parametrize(
    ("past", "sentence"),
    [
        ([], "Not judged by the history: it holds no good run of this load, and 3 are needed."),
        (USUAL[:1], "Not judged by the history: it holds 1 good run of this load, and 3 are needed."),
        (USUAL, "Nothing is worse than in the last 4 good runs."),
    ],
)
def test_the_baseline_is_described_even_if_it_is_empty(past: Sequence[Record], sentence: str) -> None:
    assert baseline_sentence(past) == sentence


def test_problems_of_a_run_are_failures_regressions_and_missed_thresholds() -> None:
    failures = FigureRecord("Failed requests", "", Better.LOWER, (2.0, 1.0), 1.5)
    bad = msgspec.structs.replace(
        record(100, failed=3),
        contenders=(ContenderRecord("picked", "http://g", (failures,)),),
        regressions=("picked: slower",),
        missed=("TTFT p50, picked / plain: at most 0.5 is required, found 0.9 (0.8-1.0): missed",),
    )
    assert bad.problems == ("3 requests of picked failed", "Regression: picked: slower", *bad.missed)
    assert record(100).problems == ()


def test_tolerated_failures_are_no_problem() -> None:
    failures = FigureRecord("Failed requests", "", Better.LOWER, (2.0, 1.0), 1.5)
    plain = ContenderRecord("plain", "http://g", (failures,))
    assert msgspec.structs.replace(record(100), failed_requests=3, contenders=(plain,)).problems == ()


def test_a_run_that_missed_a_threshold_is_a_baseline() -> None:
    """Otherwise a fleet that never meets its threshold would never be judged."""
    missed = msgspec.structs.replace(record(1000), missed=("missed",))
    assert comparable(record(1000), [missed]) == [missed]


def test_only_the_last_good_runs_of_the_same_load_are_a_baseline() -> None:
    """Runs with failures or regressions are excluded."""
    bad = msgspec.structs.replace(record(100), regressions=("worse",))
    good = [record(1000 + index) for index in range(MOST_RUNS + 3)]
    history = [*good, record(1, failed=3), bad, record(1, load="sharegpt")]
    assert comparable(record(1000), history) == good[3:]


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "made" / "history.jsonl"
    assert read_history(path) == ()
    for past in USUAL:
        add_to_history(path, past)
    assert list(read_history(path)) == USUAL


def test_a_line_of_an_older_version_is_read(tmp_path: Path) -> None:
    """It lacks the fields that were added later."""
    line = {"date": "2026-01-01T00:00:00", "load": "random", "failed_requests": 0, "contenders": [], "ratios": []}
    path = tmp_path / "history.jsonl"
    path.write_bytes(msgspec.json.encode(line) + b"\n")
    assert [past.good for past in read_history(path)] == [True]


def test_an_invalid_line_of_a_history_is_reported_by_number(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    add_to_history(path, USUAL[0])
    with path.open("a") as file:
        file.write('{"date": 3}\n')
    with pytest.raises(BadHistory, match=r"history\.jsonl, line 2: "):
        read_history(path)


def test_an_invalid_record_file_is_reported_by_name(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(BadHistory, match=r"run\.json: "):
        read_record(tmp_path / "run.json")


async def test_a_comparison_becomes_a_record_with_every_round(server: ModelServer, tmp_path: Path) -> None:
    async with model_server() as other:
        plan = Plan(
            (Contender("a", Target(server.url, "m")), Contender("b", Target(other.url, "m"))),
            workload,
            Pace(2, 1000.0),
            rounds=2,
        )
        comparison = await compare(plan)
    made = record_of(comparison, datetime(2026, 1, 2))
    assert made.load == (
        "random: 4 prompts of 2 shared + 10 tokens, output 5; 1000 requests/s, burstiness 1; at most 2 at a time"
    )
    figures = {figure.name: figure for figure in made.contenders[1].figures}
    assert len(figures["TTFT p99"].rounds) == 2
    assert "KV cache spread (std)" not in figures
    assert {ratio.contender for ratio in made.ratios} == {"b"}
    save_record(tmp_path / "made" / "run.json", made)
    assert read_record(tmp_path / "made" / "run.json") == made


async def test_the_report_is_one_page_without_external_files(server: ModelServer) -> None:
    """Plots are embedded, names are escaped, and regressions are listed."""
    async with model_server() as other:
        plan = Plan(
            (Contender("plain", Target(server.url, "m")), Contender("<picked>", Target(other.url, "m"))),
            workload,
            Pace(2),
            rounds=2,
        )
        comparison = await compare(plan)
    made = msgspec.structs.replace(record_of(comparison, datetime(2026, 1, 2)), regressions=("plain: slower",))
    page = report_html([Chapter(comparison, made, [("--target", "plain=http://x")])])
    assert page.count('src="data:image/svg+xml;base64,') == 2
    assert 'src="http' not in page
    assert "href=" not in page
    assert "<picked>" not in page
    assert "&lt;picked&gt; / plain" in page
    assert "Regression: plain: slower." in page
    assert "plain=http://x" in page


async def test_the_report_compares_a_run_with_earlier_ones(server: ModelServer) -> None:
    """One earlier run gives a mean. Three give a usual range, and mark figures that are worse."""
    contender = Contender("picked", Target(server.url, "m"))
    comparison = await compare(Plan((contender, contender), workload, Pace(2), rounds=1))
    throughput = FigureRecord("Output throughput", "tok/s", Better.HIGHER, (800.0,), 800.0)
    now = msgspec.structs.replace(record(800), contenders=(ContenderRecord("picked", "http://g", (throughput,)),))
    heading = "Compared with earlier good runs"
    assert heading not in report_html([Chapter(comparison, now, [])])
    second = report_html([Chapter(comparison, now, [], USUAL[:1])])
    assert heading in second
    assert '<td class="">1,000</td><td class="">0.800</td><td class="">-</td>' in second
    assert "it holds 1 good run of this load" in second
    fifth = report_html([Chapter(comparison, now, [], USUAL)])
    assert '<td class="worse">800.0</td>' in fifth
    assert "957.1 - 1,055" in fifth


async def test_a_report_of_several_loads_begins_with_a_table_of_contents(server: ModelServer) -> None:
    async with model_server() as other:
        contenders = (Contender("plain", Target(server.url, "m")), Contender("picked", Target(other.url, "m")))
        comparison = await compare(Plan(contenders, workload, Pace(2), rounds=1))
    made = record_of(comparison, datetime(2026, 1, 2))
    chapters = [Chapter(comparison, made, [], title=title, about="Why.") for title in ("random", "shared prefix")]
    page = report_html(chapters, "Both ports")
    assert "<title>Both ports</title>" in page
    assert [page.count(f'<a href="#chapter-{number}">') for number in (1, 2)] == [1, 1]
    assert [page.count(f'<section id="chapter-{number}">') for number in (1, 2)] == [1, 1]
    assert page.count('src="data:image/svg+xml;base64,') == 4
