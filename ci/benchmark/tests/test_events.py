"""Reading the event stream of a response."""

import itertools
import json
from typing import Any

import pytest
from benchmark.load.events import EventReader, Usage
from hypothesis import given
from hypothesis import strategies as st
from recorded_bench import recording


def token(text: str, separators: tuple[str, str] = (",", ":"), **fields: Any) -> bytes:
    event = {"id": "cmpl-1", "choices": [{"index": 0, "text": text, "finish_reason": None}], **fields}
    return b"data: " + json.dumps(event, separators=separators).encode() + b"\n\n"


USAGE = b'data: {"id":"cmpl-1","choices":[],"usage":{"prompt_tokens":12,"total_tokens":15,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("name", ["completion-stream-usage", "chat-stream-usage", "completion-stream-continuous-usage"])
def test_a_recorded_stream_is_timed_as_vllm_times_it(name: str) -> None:
    """Events with choices count, including a chat's first event with the role. Usage and `[DONE]` do not count."""
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
def test_the_result_does_not_depend_on_how_the_body_is_cut(
    texts: list[str], cuts: list[int], spaces: bool, carriage_returns: bool, keep_text: bool
) -> None:
    """This holds for every text, with and without blanks in the JSON, and for both line endings."""
    separators = (", ", ": ") if spaces else (",", ":")
    body = b"".join(token(text, separators) for text in texts) + USAGE + DONE
    if carriage_returns:
        body = body.replace(b"\n\n", b"\r\n\r\n")
    offsets = sorted({cut % (len(body) + 1) for cut in cuts} | {0, len(body)})
    reader = EventReader(keep_text)
    for start, end in itertools.pairwise(offsets):
        reader.feed(body[start:end], float(end))
    assert len(reader.times_s) == len(texts)
    assert (reader.usage, reader.done, reader.error) == (Usage(12, 3), True, None)
    assert reader.text == ("".join(texts) if keep_text else "")


def test_text_that_looks_like_an_event_is_read_as_text() -> None:
    reader = EventReader()
    reader.feed(token('"choices":[] "usage":{"prompt_tokens":99} "error":{} data: [DONE]'), 1.0)
    assert (len(reader.times_s), reader.usage, reader.done, reader.error) == (1, None, False, None)


def test_the_last_usage_is_kept() -> None:
    reader = EventReader()
    for count in (1, 2):
        reader.feed(token("x", usage={"prompt_tokens": 5, "completion_tokens": count}), float(count))
    assert (list(reader.times_s), reader.usage) == ([1.0, 2.0], Usage(5, 2))


def test_tokens_of_one_read_have_the_same_time() -> None:
    reader = EventReader()
    reader.feed(token("a") + token("b"), 2.0)
    assert list(reader.times_s) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (b'data: {"error":{"message":"EngineCore died.","code":500}}\n\n', "EngineCore died."),
        (b'data: {"error":"upstream reset"}\n\n', "upstream reset"),
        (b"data: <html>\n\n", "unreadable event"),
    ],
)
def test_an_error_in_the_stream_is_kept(event: bytes, message: str) -> None:
    reader = EventReader()
    reader.feed(token("a") + event, 1.0)
    assert reader.error is not None
    assert message in reader.error


def test_comments_and_other_fields_are_ignored() -> None:
    reader = EventReader()
    reader.feed(b": keep-alive\n\nevent: message\nid: 1\n" + token("a") + DONE, 1.0)
    assert (len(reader.times_s), reader.done, reader.error) == (1, True, None)
