"""Restoring the client's model name in responses, however they are split."""

import json
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picker.extproc.response_model import MAX_HELD_BYTES, ResponseKind, ResponseModelRewriter
from picker.requestcontrol.model_field import replace_model


def restored(kind: ResponseKind, chunks: list[bytes]) -> list[bytes]:
    """The output for each chunk. The last chunk ends the response."""
    rewriter = ResponseModelRewriter(kind, served="m-v2", requested="m")
    return [rewriter.feed(chunk, index == len(chunks) - 1) for index, chunk in enumerate(chunks)]


def cut(text: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(text)) for place in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


contents = st.text(max_size=12) | st.sampled_from(['"model": "m-v2"', "data: {", "\n\n", "m-v2", "}"])
line_ends = st.sampled_from(["\n", "\r\n", "\r"])
cuts = st.lists(st.integers(0, 600), max_size=8)


@given(st.lists(contents, max_size=4), line_ends, cuts)
def test_the_name_is_restored_in_an_event_stream_split_anywhere(
    texts: list[str], line_end: str, places: list[int]
) -> None:
    """Also within the name, a character or a line end. Comments and other fields are unchanged."""

    def stream(model: str) -> bytes:
        events = [
            f"id: {index}{line_end}event: x{line_end}: ping {text!a}{line_end}"
            f"data: {json.dumps({'model': model, 'text': text})}{line_end}{line_end}"
            for index, text in enumerate(texts)
        ]
        return ("".join(events) + f"data: [DONE]{line_end}{line_end}").encode()

    assert b"".join(restored(ResponseKind.EVENTS, cut(stream("m-v2"), places))) == stream("m")


@given(contents, cuts, st.booleans())
def test_the_name_is_restored_in_json_split_anywhere(text: str, places: list[int], ends_with_trailers: bool) -> None:
    """The last piece or the trailers end the response."""

    def whole(model: str) -> bytes:
        return json.dumps(
            {"id": text, "choices": [{"message": {"content": text, "model": "m-v2"}}], "model": model}
        ).encode()

    chunks = cut(whole("m-v2"), places) + ([b""] if ends_with_trailers else [])
    out = restored(ResponseKind.JSON, chunks)
    assert b"".join(out) == whole("m")
    if ends_with_trailers:
        assert out[-1] == b""


def test_only_the_name_is_held_back() -> None:
    """All other bytes reach the client without delay."""
    chunks = [b'data: {"model":"m-v2"}\n', b'\ndata: {"mod', b'el": "m', b"-v2", b'", "n": 1}\n', b""]
    out = [b'data: {"model":"m"}\n', b'\ndata: {"mod', b'el": ', b"", b'"m", "n": 1}\n', b""]
    assert restored(ResponseKind.EVENTS, chunks) == out


@pytest.mark.parametrize("kind", ResponseKind)
def test_a_truncated_response_is_passed_on_to_its_end(kind: ResponseKind) -> None:
    """The server has crashed."""
    assert b"".join(restored(kind, [b'data: {"model":"m-', b""])) == b'data: {"model":"m-'


@pytest.mark.parametrize("kind", ResponseKind)
def test_a_value_longer_than_the_name_is_not_held_back(kind: ResponseKind) -> None:
    chunks = [b'data: {"model":"', b"m" * 100, b"x" * MAX_HELD_BYTES, b'"}', b""]
    out = restored(kind, chunks)
    assert out[1] == b'"' + chunks[1]
    assert out[2:] == chunks[2:]


@pytest.mark.parametrize("length", [1, MAX_HELD_BYTES // 10])
def test_the_name_is_restored_after_a_long_string(length: int) -> None:
    """The long string is not held back."""
    chunks = [b'{"x":"', b"x" * length, b'","model":"m-v2"}', b""]
    assert restored(ResponseKind.JSON, chunks) == [*chunks[:2], b'","model":"m"}', b""]


json_values = st.recursive(
    st.none() | st.integers() | st.sampled_from(["m-v2", "model", "", 'a"\\', "\U0001f600"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["model", "response", "message", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values, cuts, st.booleans())
def test_a_text_in_pieces_is_restored_like_a_whole_one(value: object, places: list[int], escaped: bool) -> None:
    """`replace_model` replaces the same strings."""
    text = json.dumps(value, ensure_ascii=escaped).encode()
    assert b"".join(restored(ResponseKind.JSON, cut(text, places))) == replace_model(text, "m-v2", "m")


@given(st.lists(st.sampled_from([*b'{}[]":,\\m-v2 data\n\r', 0x80]), max_size=40), st.sampled_from(ResponseKind))
def test_splits_do_not_change_the_result_for_any_bytes(text: list[int], kind: ResponseKind) -> None:
    """Single bytes give the same result as the whole text, for JSON and for other text."""
    whole = b'data: {"model":"m-v2' + bytes(text)
    single = [bytes([byte]) for byte in whole]
    assert b"".join(restored(ResponseKind.JSON, [*single, b""])) == b"".join(restored(ResponseKind.JSON, [whole, b""]))
    assert len(b"".join(restored(kind, [*single, b""]))) >= len(whole) - 3 * whole.count(b"m-v2")


@given(st.text(max_size=6), st.integers(0, 100))
def test_a_response_without_the_held_back_bytes_is_not_json(text: str, place: int) -> None:
    """So a client detects a response whose picker was killed."""
    whole = json.dumps({"id": text, "model": "m-v2", "x": [text]}).encode()
    rewriter = ResponseModelRewriter(ResponseKind.JSON, served="m-v2", requested="m")
    place %= len(whole)
    received = rewriter.feed(whole[:place], False) + whole[place:]
    if rewriter.feed(b"", True):
        with pytest.raises(ValueError, match=r"Expecting|delimiter|Extra|Invalid|Unterminated"):
            json.loads(received)
    else:
        assert json.loads(received)["model"] in ("m", "m-v2")


SHAPES = {
    "brackets": b"{[",
    "closing brackets": b"}",
    "quotes": b'"',
    "escapes": b'"\\',
    "keys": b'"model":',
    "names": b'{"model":"m-v2"},',
    "half names": b'{"model":"m-v',
    "lines": b"data: {}\n",
    "line ends": b"\r",
}


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
@pytest.mark.parametrize("kind", ResponseKind)
@pytest.mark.parametrize("shape", SHAPES)
def test_time_is_linear_in_the_response(shape: str, kind: ResponseKind, piece: int) -> None:
    """For all contents and all splits."""

    def cost_s(size: int) -> float:
        text = b'data: {"x":' + SHAPES[shape] * (size // len(SHAPES[shape]))
        pieces = [text[at : at + piece] for at in range(0, len(text), piece)]
        began_s = time.process_time()
        restored(kind, [*pieces, b""])
        return time.process_time() - began_s

    # The minimum of several runs excludes other load on the machine.
    size = 2_000 if piece == 1 else 16_000
    assert min(cost_s(4 * size) for _ in range(4)) < 10 * min(cost_s(size) for _ in range(4)) + 0.002


@given(st.lists(st.binary(max_size=20), max_size=6), st.sampled_from(ResponseKind))
def test_bytes_without_a_model_are_unchanged(chunks: list[bytes], kind: ResponseKind) -> None:
    assert b"".join(restored(kind, [*chunks, b""])) == b"".join(chunks)


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("application/json", ResponseKind.JSON),
        ("Application/JSON; charset=utf-8", ResponseKind.JSON),
        ("text/event-stream;charset=utf-8", ResponseKind.EVENTS),
        ("text/event-stream ", ResponseKind.EVENTS),
        ("application/json-seq", None),
        ("audio/wav", None),
        ("", None),
    ],
)
def test_only_json_and_event_streams_are_rewritten(content_type: str, kind: ResponseKind | None) -> None:
    """Parameters and case of the content type are ignored."""
    assert ResponseKind.of(content_type) is kind
