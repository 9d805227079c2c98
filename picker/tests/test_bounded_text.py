"""External text is shortened before it is kept."""

from picker.bounded_text import MARK, MAX_CHARACTERS, shorten


def test_text_of_maximum_length_is_unchanged() -> None:
    assert shorten("x" * MAX_CHARACTERS) == "x" * MAX_CHARACTERS


def test_longer_text_is_cut_and_marked() -> None:
    assert shorten("x" * (MAX_CHARACTERS + 1)) == "x" * (MAX_CHARACTERS - 1) + MARK


def test_limit_can_be_smaller() -> None:
    assert shorten("abcdef", 4) == "abc" + MARK
