"""Reading the stream of an answer."""

import itertools
import json
from typing import Any

import pytest
from benchmark.load.events import EventReader, Usage
from hypothesis import given
from hypothesis import strategies as st
from recorded_bench import recording


def token(text: str, separators: tuple[str, str] = (",", ":"), **more: Any) -> bytes:
    event = {"id": "cmpl-1", "choices": [{"index": 0, "text": text, "finish_reason": None}], **more}
    return b"data: " + json.dumps(event, separators=separators).encode() + b"\n\n"


USAGE = b'data: {"id":"cmpl-1","choices":[],"usage":{"prompt_tokens":12,"total_tokens":15,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("name", ["completion-stream-usage", "chat-stream-usage", "completion-stream-continuous-usage"])
def test_a_recorded_stream_is_timed_as_vllm_times_it(name: str) -> None:
    """Events with choices count, of a chat the first with its role too; usage and the end do not."""
    reader = EventReader()
    expected: list[float] = []
    for line in recording(f"http/{name}.json")["response"]["body_lines"]:
        reader.feed(line["line"].encode() + b"\n\n", line["offset_ms"])
        if '"choices":[{' in line["line"]:
            expected.append(line["offset_ms"])
    assert list(reader.times_s) == expected
    assert reader.done
    assert reader.error is None
    assert reader.usage is not None
    assert reader.usage.completion_tokens == 8


@given(
    st.lists(st.text(max_size=20), max_size=6),
    st.lists(st.integers(0, 1000), max_size=12),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_the_pieces_in_which_a_body_comes_make_no_difference(
    texts: list[str], cuts: list[int], spaces: bool, carriage_returns: bool, keep_text: bool
) -> None:
    """Whatever the text, the JSON's blanks and the ends of lines."""
    separators = (", ", ": ") if spaces else (",", ":")
    body = b"".join(token(text, separators) for text in texts) + USAGE + DONE
    if carriage_returns:
        body = body.replace(b"\n\n", b"\r\n\r\n")
    places = sorted({cut % (len(body) + 1) for cut in cuts} | {0, len(body)})
    reader = EventReader(keep_text)
    for start, end in itertools.pairwise(places):
        reader.feed(body[start:end], float(end))
    assert len(reader.times_s) == len(texts)
    assert (reader.usage, reader.done, reader.error) == (Usage(12, 3), True, None)
    assert reader.text == ("".join(texts) if keep_text else "")


def test_text_that_looks_like_an_event_is_only_text() -> None:
    reader = EventReader()
    reader.feed(token('"choices":[] "usage":{"prompt_tokens":99} "error":{} data: [DONE]'), 1.0)
    assert (len(reader.times_s), reader.usage, reader.done, reader.error) == (1, None, False, None)


def test_usage_in_every_event_ends_at_the_last() -> None:
    reader = EventReader()
    for count in (1, 2):
        reader.feed(token("x", usage={"prompt_tokens": 5, "completion_tokens": count}), float(count))
    assert (list(reader.times_s), reader.usage) == ([1.0, 2.0], Usage(5, 2))


def test_tokens_of_one_read_have_one_time() -> None:
    reader = EventReader()
    reader.feed(token("a") + token("b"), 2.0)
    assert list(reader.times_s) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (b'data: {"error":{"message":"EngineCore died.","code":500}}\n\n', "EngineCore died."),
        (b'data: {"error":"upstream reset"}\n\n', "upstream reset"),
        (b"data: <html>\n\n", "an event that cannot be read"),
    ],
)
def test_an_error_in_the_stream_is_kept(event: bytes, said: str) -> None:
    reader = EventReader()
    reader.feed(token("a") + event, 1.0)
    assert reader.error is not None
    assert said in reader.error


def test_comments_and_other_fields_are_passed_over() -> None:
    reader = EventReader()
    reader.feed(b": keep-alive\n\nevent: message\nid: 1\n" + token("a") + DONE, 1.0)
    assert (len(reader.times_s), reader.done, reader.error) == (1, True, None)
