"""How far a run is, as it is shown."""

import io

from benchmark.progress import shown_progress
from rich.console import Console


def shown(terminal: bool, *calls: tuple[str, int, int, int]) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    with shown_progress(console) as told:
        for call in calls:
            told(*call)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_bar_claims_no_number_of_requests_before_it_knows_it() -> None:
    assert "0/?" in shown(True)


def test_a_bar_shows_what_is_done_and_what_failed() -> None:
    out = shown(True, ("benchmark", 7, 3000, 2))
    assert "benchmark, 2 failed" in out
    assert "7/3000" in out


def test_without_a_terminal_the_end_of_each_part_is_a_line_and_not_each_request() -> None:
    calls = [("round 1 of 4, port 8081", done, 3, 1) for done in (1, 2, 3)]
    assert shown(False, *calls) == "round 1 of 4, port 8081: 3 of 3 requests, 1 failed\n"
