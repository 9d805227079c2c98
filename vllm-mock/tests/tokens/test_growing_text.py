"""Incremental detokenization."""

from hypothesis import given
from hypothesis import strategies as st
from vllm_mock.tokens.approximate import ApproximateTokenizer
from vllm_mock.tokens.text import GrowingText


class Pieces(ApproximateTokenizer):
    """A tokenizer whose tokens are given pieces of bytes."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def piece(self, token: int) -> bytes:
        return self.pieces[token]


def generated(pieces: list[bytes], stops: list[str]) -> tuple[list[str], GrowingText]:
    """The text of each chunk, and the whole text."""
    text = GrowingText(Pieces(pieces), stops)
    chunks: list[str] = []
    for token in range(len(pieces)):
        text.add(token)
        last = token == len(pieces) - 1 or text.stopped_by is not None
        chunks.append(text.take(last))
        if last:
            break
    return chunks, text


def test_a_character_is_sent_with_its_last_byte() -> None:
    chunks, _ = generated(["é".encode()[:1], "é".encode()[1:], b"x"], [])
    assert chunks == ["", "é", "x"]


def test_a_possible_beginning_of_a_stop_string_is_held_back() -> None:
    chunks, text = generated([b"ab", b"cd", b"EN", b"D!"], ["END"])
    assert chunks == ["", "ab", "cd", ""]
    assert text.stopped_by == "END"
    assert text.text == "abcd"


def test_the_first_stop_string_of_the_list_wins() -> None:
    _, text = generated([b"one two"], ["two", "one"])
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
def test_chunks_add_up_to_the_text_before_the_stop_string(pieces: list[bytes], stops: list[str]) -> None:
    chunks, text = generated(pieces, stops)
    assert "".join(chunks) == text.text
    assert all(stop not in text.text for stop in stops) or text.stopped_by in stops
    whole = b"".join(pieces).decode()
    assert whole.startswith(text.text)
    if text.stopped_by is not None:
        assert whole[len(text.text) :].startswith(text.stopped_by)
