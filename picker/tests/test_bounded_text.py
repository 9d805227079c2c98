"""Text from outside is bounded before it is kept."""

from picker.bounded_text import MARK, MAX_CHARACTERS, shorten


def test_text_of_the_longest_length_is_kept_whole() -> None:
    assert shorten("x" * MAX_CHARACTERS) == "x" * MAX_CHARACTERS


def test_longer_text_is_cut_with_a_mark() -> None:
    assert shorten("x" * (MAX_CHARACTERS + 1)) == "x" * (MAX_CHARACTERS - 1) + MARK


def test_the_bound_can_be_smaller() -> None:
    assert shorten("abcdef", 4) == "abc" + MARK
