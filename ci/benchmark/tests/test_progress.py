"""The progress of a run, as shown."""

import io

from benchmark.progress import shown_progress
from rich.console import Console


def shown(terminal: bool, *calls: tuple[str, int, int, int]) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    with shown_progress(console) as report:
        for call in calls:
            report(*call)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_bar_shows_no_total_before_it_is_known() -> None:
    assert "0/?" in shown(True)


def test_a_bar_shows_done_and_failed_requests() -> None:
    out = shown(True, ("benchmark", 7, 3000, 2))
    assert "benchmark, 2 failed" in out
    assert "7/3000" in out


def test_without_a_terminal_each_run_prints_one_line_at_its_end() -> None:
    calls = [("round 1 of 4, port 8081", done, 3, 1) for done in (1, 2, 3)]
    assert shown(False, *calls) == "round 1 of 4, port 8081: 3 of 3 requests, 1 failed\n"
