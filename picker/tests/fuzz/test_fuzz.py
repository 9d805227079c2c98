"""Ten seconds of fuzzing, and the seeds of all past failures."""

import secrets

import pytest

from fuzz.runs import Counts, corpus, run_for, run_one

SECONDS = 10.0


@pytest.mark.parametrize(("target", "seed"), corpus())
def test_past_failures_do_not_recur(target: str, seed: str) -> None:
    run_one(target, seed, Counts())  # must not raise


def test_ten_seconds_of_fuzzing_find_no_failure() -> None:
    """The seed is printed; a failure prints the command that repeats it."""
    seed = secrets.token_hex(4)
    print(f"seed {seed}")
    counts = run_for(SECONDS, seed)
    assert counts.streams > 0
    assert counts.messages > counts.streams
