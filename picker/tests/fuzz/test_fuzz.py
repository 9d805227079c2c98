"""Ten seconds of random use, and all that it has ever found."""

import secrets

import pytest

from fuzz.runs import Counts, corpus, run_for, run_one

SECONDS = 10.0


@pytest.mark.parametrize(("target", "seed"), corpus())
def test_what_was_found_once_is_not_found_again(target: str, seed: str) -> None:
    run_one(target, seed, Counts())


def test_ten_seconds_of_random_use_find_nothing() -> None:
    """The seed is printed; a failure prints the command that repeats it."""
    seed = secrets.token_hex(4)
    print(f"seed {seed}")
    counts = run_for(SECONDS, seed)
    assert counts.streams > 0
    assert counts.messages > counts.streams
