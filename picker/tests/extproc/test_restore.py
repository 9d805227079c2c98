"""Answers with the client's model name in them, however they are cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picker.extproc.restore import MAX_HELD_BYTES, AnswerKind, NameRestorer


def restored(kind: AnswerKind, chunks: list[bytes]) -> list[bytes]:
    """What comes out for each chunk, the last one ending the answer."""
    restorer = NameRestorer(kind, served="m-v2", asked="m")
    return [restorer.feed(chunk, index == len(chunks) - 1) for index, chunk in enumerate(chunks)]


def cut(text: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(each, len(text)) for each in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


contents = st.text(max_size=12) | st.sampled_from(['"model": "m-v2"', "data: {", "\n\n", "m-v2", "}"])
line_ends = st.sampled_from(["\n", "\r\n", "\r"])
cuts = st.lists(st.integers(0, 600), max_size=8)


@given(st.lists(contents, max_size=4), line_ends, cuts)
def test_an_event_stream_cut_anywhere_is_restored_event_by_event(
    texts: list[str], line_end: str, places: list[int]
) -> None:
    """In the middle of the name, of a character, of a line end; comments and other fields pass as they are."""

    def stream(model: str) -> bytes:
        events = [
            f"id: {index}{line_end}event: x{line_end}: ping {text!a}{line_end}"
            f"data: {json.dumps({'model': model, 'text': text})}{line_end}{line_end}"
            for index, text in enumerate(texts)
        ]
        return ("".join(events) + f"data: [DONE]{line_end}{line_end}").encode()

    assert b"".join(restored(AnswerKind.EVENTS, cut(stream("m-v2"), places))) == stream("m")


@given(contents, cuts, st.booleans())
def test_a_json_answer_cut_anywhere_is_restored_whole(text: str, places: list[int], ends_with_trailers: bool) -> None:
    """Whether its last piece ends the answer, or trailers do that come after."""

    def answer(model: str) -> bytes:
        return json.dumps(
            {"id": text, "choices": [{"message": {"content": text, "model": "m-v2"}}], "model": model}
        ).encode()

    chunks = cut(answer("m-v2"), places) + ([b""] if ends_with_trailers else [])
    out = restored(AnswerKind.JSON, chunks)
    assert b"".join(out) == answer("m")
    if ends_with_trailers:
        assert out[-1] == b""


def test_every_whole_line_goes_on_at_once() -> None:
    """A client waits for its tokens."""
    first, second = b'data: {"model":"m-v2"}\n', b'\ndata: {"mod'
    assert restored(AnswerKind.EVENTS, [first, second, b""]) == [b'data: {"model":"m"}\n', b"\n", b'data: {"mod']


@pytest.mark.parametrize("kind", AnswerKind)
def test_an_answer_that_breaks_off_passes_as_far_as_it_came(kind: AnswerKind) -> None:
    """A server that died halfway."""
    assert b"".join(restored(kind, [b'data: {"model":"m-', b""])) == b'data: {"model":"m-'


@pytest.mark.parametrize("kind", AnswerKind)
def test_an_answer_too_long_to_hold_passes_unchanged(kind: AnswerKind) -> None:
    """Rather than filling memory."""
    chunks = [b'{"model":"m-v2","x":"', b"x" * MAX_HELD_BYTES, b'"}', b""]
    out = restored(kind, chunks)
    assert out[0] == b""
    assert b"".join(out) == b"".join(chunks)


@given(st.lists(st.binary(max_size=20), max_size=6), st.sampled_from(AnswerKind))
def test_bytes_that_are_no_answer_pass_unchanged(chunks: list[bytes], kind: AnswerKind) -> None:
    """None is lost, none is added."""
    assert b"".join(restored(kind, [*chunks, b""])) == b"".join(chunks)


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("application/json", AnswerKind.JSON),
        ("Application/JSON; charset=utf-8", AnswerKind.JSON),
        ("text/event-stream;charset=utf-8", AnswerKind.EVENTS),
        ("text/event-stream ", AnswerKind.EVENTS),
        ("application/json-seq", None),
        ("audio/wav", None),
        ("", None),
    ],
)
def test_only_json_and_event_streams_hold_names(content_type: str, kind: AnswerKind | None) -> None:
    """Parameters and case do not count."""
    assert AnswerKind.of(content_type) is kind
