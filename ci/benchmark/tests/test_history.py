"""What is kept of a comparison, and what later ones are judged by."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from benchmark.compare.history import MOST_RUNS, beside, comparable, judged_by, regressions
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


def test_a_figure_beyond_what_is_usual_is_a_regression() -> None:
    """The noise of those before is less than 5 %, so 5 % around their geometric mean, 1,004.9, are allowed."""
    assert list(regressions(record(800), USUAL)) == [
        "picked: Output throughput 800 tok/s, usual in the last 4 good runs is 957.1 to 1,055"
    ]
    (sentence,) = regressions(record(1000, ttft=130), USUAL)
    assert sentence.startswith("picked: TTFT p90 130 ms")


@pytest.mark.parametrize(("throughput", "ttft"), [(1000, 100), (1300, 100), (1000, 50), (965, 104)])
def test_what_is_better_or_within_the_usual_is_none(throughput: float, ttft: float) -> None:
    assert not list(regressions(record(throughput, ttft), USUAL))


def test_noisy_runs_allow_more() -> None:
    """Runs that differed by a third among themselves: 20 % less is nothing."""
    noisy = [record(value) for value in (1000, 1300, 800, 1150, 900)]
    assert not list(regressions(record(800), noisy))


@pytest.mark.parametrize("past", [[], USUAL[:2]])
def test_two_runs_do_not_show_what_is_usual(past: Sequence[Record]) -> None:
    assert not list(regressions(record(1), past))


def test_the_second_run_stands_beside_the_first_though_one_does_not_show_what_is_usual() -> None:
    throughput, ttft, failed = beside(record(900, ttft=300), [record(1000)])
    assert (throughput.figure.mean, throughput.mean, throughput.usual) == (900, 1000, None)
    assert not any(each.worse for each in (throughput, ttft, failed))


@pytest.mark.parametrize(
    ("past", "told"),
    [
        ([], "Not judged by the history: it holds no good run of this load, and 3 show what is usual."),
        (USUAL[:1], "Not judged by the history: it holds 1 good run of this load, and 3 show what is usual."),
        (USUAL, "Nothing is worse than in the last 4 good runs."),
    ],
)
def test_what_a_run_was_judged_by_is_told_also_where_it_was_nothing(past: Sequence[Record], told: str) -> None:
    assert judged_by(past) == told


def test_the_problems_of_a_run_are_what_failed_what_is_worse_and_what_was_missed() -> None:
    failures = FigureRecord("Failed requests", "", Better.LOWER, (2.0, 1.0), 1.5)
    bad = msgspec.structs.replace(
        record(100, failed=3),
        contenders=(ContenderRecord("picked", "http://g", (failures,)),),
        regressions=("picked: slower",),
        missed=("TTFT p50, picked / plain: at most 0.5 is wanted, found is 0.9 (0.8-1.0): missed",),
    )
    assert bad.problems == ("3 requests of picked failed", "Regression: picked: slower", *bad.missed)
    assert record(100).problems == ()


def test_failures_that_a_comparison_bears_are_no_problem() -> None:
    failures = FigureRecord("Failed requests", "", Better.LOWER, (2.0, 1.0), 1.5)
    plain = ContenderRecord("plain", "http://g", (failures,))
    assert msgspec.structs.replace(record(100), failed_requests=3, contenders=(plain,)).problems == ()


def test_a_run_that_missed_an_aim_is_still_a_measure() -> None:
    """Else a fleet that never meets one would never be judged."""
    missed = msgspec.structs.replace(record(1000), missed=("missed",))
    assert comparable(record(1000), [missed]) == [missed]


def test_only_good_runs_of_the_same_load_are_a_measure() -> None:
    """Neither those with failures nor those that were a regression themselves, and of the good ones the last."""
    bad = msgspec.structs.replace(record(100), regressions=("worse",))
    good = [record(1000 + index) for index in range(MOST_RUNS + 3)]
    history = [*good, record(1, failed=3), bad, record(1, load="sharegpt")]
    assert comparable(record(1000), history) == good[3:]


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "made" / "history.jsonl"
    assert read_history(path) == ()
    for each in USUAL:
        add_to_history(path, each)
    assert list(read_history(path)) == USUAL


def test_a_line_of_an_older_version_is_read(tmp_path: Path) -> None:
    """It has none of the fields that were added since."""
    line = {"date": "2026-01-01T00:00:00", "load": "random", "failed_requests": 0, "contenders": [], "ratios": []}
    path = tmp_path / "history.jsonl"
    path.write_bytes(msgspec.json.encode(line) + b"\n")
    assert [each.good for each in read_history(path)] == [True]


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    add_to_history(path, USUAL[0])
    with path.open("a") as file:
        file.write('{"date": 3}\n')
    with pytest.raises(BadHistory, match=r"history\.jsonl, line 2: "):
        read_history(path)


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
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


async def test_the_report_is_one_page_that_needs_nothing_beside_it(server: ModelServer) -> None:
    """Pictures inside, names from outside escaped, regressions told."""
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


async def test_the_report_shows_a_run_beside_those_before_it(server: ModelServer) -> None:
    """From the first of them on; what is usual, and whether anything is worse, from the third on."""
    contender = Contender("picked", Target(server.url, "m"))
    comparison = await compare(Plan((contender, contender), workload, Pace(2), rounds=1))
    throughput = FigureRecord("Output throughput", "tok/s", Better.HIGHER, (800.0,), 800.0)
    now = msgspec.structs.replace(record(800), contenders=(ContenderRecord("picked", "http://g", (throughput,)),))
    heading = "Beside the good runs before"
    assert heading not in report_html([Chapter(comparison, now, [])])
    second = report_html([Chapter(comparison, now, [], USUAL[:1])])
    assert heading in second
    assert '<td class="">1,000</td><td class="">0.800</td><td class="">-</td>' in second
    assert "it holds 1 good run of this load" in second
    fifth = report_html([Chapter(comparison, now, [], USUAL)])
    assert '<td class="worse">800.0</td>' in fifth
    assert "957.1 - 1,055" in fifth


async def test_a_report_of_several_loads_begins_with_what_is_in_it(server: ModelServer) -> None:
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
