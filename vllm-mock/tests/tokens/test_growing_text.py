"""Text as it grows, token by token."""

from hypothesis import given
from hypothesis import strategies as st
from vllm_mock.tokens.approximate import ApproximateTokenizer
from vllm_mock.tokens.text import GrowingText


class Pieces(ApproximateTokenizer):
    """Tokens are given pieces of bytes."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def piece(self, token: int) -> bytes:
        return self.pieces[token]


def shown(pieces: list[bytes], stops: list[str]) -> tuple[list[str], GrowingText]:
    text = GrowingText(Pieces(pieces), stops)
    told: list[str] = []
    for token in range(len(pieces)):
        text.add(token)
        last = token == len(pieces) - 1 or text.stopped_by is not None
        told.append(text.take(last))
        if last:
            break
    return told, text


def test_a_character_is_shown_when_its_last_byte_has_come() -> None:
    told, _ = shown(["é".encode()[:1], "é".encode()[1:], b"x"], [])
    assert told == ["", "é", "x"]


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    told, text = shown([b"ab", b"cd", b"EN", b"D!"], ["END"])
    assert told == ["", "ab", "cd", ""]
    assert text.stopped_by == "END"
    assert text.text == "abcd"


def test_the_first_stop_string_of_the_list_wins() -> None:
    _, text = shown([b"one two"], ["two", "one"])
    assert (text.stopped_by, text.text) == ("two", "one ")


def test_a_stop_string_before_min_tokens_is_text() -> None:
    text = GrowingText(Pieces([b"END", b"END"]), ["END"], min_tokens=1)
    text.add(0)
    assert text.stopped_by is None
    text.add(1)
    assert text.text == "END"


@given(
    st.lists(st.text("abE", max_size=4).map(str.encode), min_size=1, max_size=12),
    st.lists(st.text("abE", min_size=1, max_size=3), max_size=2),
)
def test_what_is_shown_is_the_text_up_to_the_stop_string(pieces: list[bytes], stops: list[str]) -> None:
    told, text = shown(pieces, stops)
    assert "".join(told) == text.text
    assert all(stop not in text.text for stop in stops) or text.stopped_by in stops
    whole = b"".join(pieces).decode()
    assert whole.startswith(text.text)
    if text.stopped_by is not None:
        assert whole[len(text.text) :].startswith(text.stopped_by)
