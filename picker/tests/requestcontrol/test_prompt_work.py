"""Estimates of a prompt's tokens and sequences: text, ids, pictures, copies."""

import base64
import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linear_time import assert_linear
from picker.requestcontrol.apis import (
    AUDIO_TOKENS,
    CHAT,
    COMPLETIONS,
    EMBED,
    GENERATE,
    INVOCATIONS,
    MESSAGES,
    PICTURE_TOKENS,
    POOL,
    RESPONSES,
    SCORE,
    UNKNOWN,
    Api,
    api_of,
)
from picker.requestcontrol.model_field import rename_request
from picker.requestcontrol.prompt_work import MAX_MEDIA, MAX_SEQUENCES, VIDEO_TOKENS
from picker.requestcontrol.request_body import ParsedBody, read_body, read_form_body

DATA = base64.b64encode(Random(1).randbytes(300_000)).decode()
DATA_URL = "data:image/jpeg;base64," + DATA
URL = "https://example.com/cat.jpg"


def read(api: Api, **fields: Any) -> ParsedBody:
    found = read_body(json.dumps({"model": "m", **fields}).encode(), True, api)
    assert isinstance(found, ParsedBody), found
    return found


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, *parts]}]


@pytest.mark.parametrize(
    ("api", "field", "part", "tokens"),
    [
        (
            CHAT,
            "messages",
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + DATA}},
            PICTURE_TOKENS,
        ),
        (CHAT, "messages", {"type": "image_url", "image_url": {"url": URL}}, PICTURE_TOKENS),
        (CHAT, "messages", {"image_url": URL}, PICTURE_TOKENS),
        (CHAT, "messages", {"type": "image_embeds", "image_embeds": DATA}, PICTURE_TOKENS),
        (CHAT, "messages", {"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}}, AUDIO_TOKENS),
        (CHAT, "messages", {"type": "video_url", "video_url": {"url": URL}}, VIDEO_TOKENS),
        (RESPONSES, "input", {"type": "input_image", "image_url": "data:image/png;base64," + DATA}, PICTURE_TOKENS),
        (MESSAGES, "messages", {"type": "image", "source": {"type": "base64", "data": DATA}}, PICTURE_TOKENS),
        (
            MESSAGES,
            "messages",
            {"type": "tool_result", "content": [{"type": "image", "source": {"type": "base64", "data": DATA}}]},
            PICTURE_TOKENS,
        ),
        (EMBED, "messages", {"type": "image_url", "image_url": {"url": URL}}, PICTURE_TOKENS),
    ],
)
def test_media_count_as_a_fixed_number_of_tokens(api: Api, field: str, part: dict[str, Any], tokens: int) -> None:
    """Their bytes and the bytes of their URLs are not counted."""
    found = read(api, **{field: user(part)}).prompt_tokens
    assert tokens <= found <= tokens + 60


def test_text_beside_a_picture_counts_as_text() -> None:
    text = {"type": "text", "text": "word " * 4000}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + DATA}}
    assert read(CHAT, messages=user(text, picture)).prompt_tokens == pytest.approx(5000 + PICTURE_TOKENS, rel=0.02)


def test_pictures_beyond_the_servers_limit_are_not_counted() -> None:
    parts = [{"type": "image_url", "image_url": {"url": URL}}] * (3 * MAX_MEDIA)
    assert read(CHAT, messages=user(*parts)).prompt_tokens < MAX_MEDIA * PICTURE_TOKENS + 60_000


@pytest.mark.parametrize("text", ["[1, 2]", ": [", '"image_url": {"url": "x"}', "x,[[["])
def test_brackets_in_a_text_are_not_read_as_parts(text: str) -> None:
    content = text * 100
    plain = "x" * len(json.dumps(content)[1:-1])
    with_brackets, without = (read(CHAT, messages=[{"role": "user", "content": found}]) for found in (content, plain))
    assert with_brackets.prompt_tokens == pytest.approx(without.prompt_tokens, rel=0.25)


@pytest.mark.parametrize("text", ["多くの言葉がある。" * 50, "Слова и ещё слова " * 300, "plain words " * 500])
@pytest.mark.parametrize("wrapped", [False, True])
def test_escaped_text_counts_like_the_same_text_in_utf_8(text: str, wrapped: bool) -> None:
    prompt: Any = user({"type": "text", "text": text}, {"image_url": URL}) if wrapped else text
    body = {"model": "m", "messages" if wrapped else "prompt": prompt}
    counts: list[int] = []
    for ascii_only in (True, False):
        found = read_body(json.dumps(body, ensure_ascii=ascii_only).encode(), True, CHAT if wrapped else COMPLETIONS)
        assert isinstance(found, ParsedBody)
        counts.append(found.prompt_tokens)
    assert counts[0] == pytest.approx(counts[1], rel=0.35)


def test_an_escaped_backslash_before_a_u_is_not_a_unicode_escape() -> None:
    """In JSON it is two characters."""
    assert read(COMPLETIONS, prompt="\\u" * 10_000).prompt_tokens >= 2 * 10_000 // 4


@pytest.mark.parametrize(
    ("api", "fields", "tokens"),
    [
        (COMPLETIONS, {"prompt": "hi", "input": [0] * 5000, "messages": "x" * 5000, "tools": "x" * 5000}, 1),
        (COMPLETIONS, {"prompt": "x" * 4000, "tools": 1}, 1000),
        (CHAT, {"messages": [], "prompt": "x" * 4000, "input": "x" * 4000, "system": "x" * 4000}, 0),
        (RESPONSES, {"input": "x" * 4000, "messages": "x" * 4000}, 1000),
        (MESSAGES, {"messages": [], "system": "x" * 4000}, 1001),
        (INVOCATIONS, {"prompt": "hi", "input": "x" * 4000}, 1),
        (INVOCATIONS, {"messages": None, "prompt": "x" * 4000}, 1000),
        (GENERATE, {"token_ids": [1] * 70, "prompt": "x" * 4000}, 70),
        (COMPLETIONS, {"prompt": [1, 2, "x" * 4000]}, 1002),
        (COMPLETIONS, {"prompt": [[1, 2], [3, 4, 5]]}, 5),
    ],
)
def test_only_the_fields_that_the_api_reads_are_counted(api: Api, fields: dict[str, Any], tokens: int) -> None:
    assert read(api, **fields).prompt_tokens == pytest.approx(tokens, abs=1)


@pytest.mark.parametrize(
    ("api", "fields", "sequences"),
    [
        (CHAT, {"messages": []}, 1),
        (CHAT, {"messages": [], "n": 4}, 4),
        (CHAT, {"messages": [], "n": 4, "best_of": 9}, 4),
        (CHAT, {"messages": [], "n": 0}, 1),
        (CHAT, {"messages": [], "n": -3}, 1),
        (CHAT, {"messages": [], "n": "many"}, 1),
        (CHAT, {"messages": [], "n": 10**9}, MAX_SEQUENCES),
        (COMPLETIONS, {"prompt": "hi", "n": 2, "best_of": 5}, 5),
        (COMPLETIONS, {"prompt": ["a", 'b "quoted"', "c\\"]}, 3),
        (COMPLETIONS, {"prompt": ["a", "b"], "n": 3}, 6),
        (COMPLETIONS, {"prompt": [[1, 2], [3]]}, 2),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, 1),
        (COMPLETIONS, {"prompt": ["x"] * 5000, "n": 5000}, MAX_SEQUENCES),
        (EMBED, {"input": ["a", "b"]}, 2),
        (SCORE, {"text_1": "q", "text_2": ["a", "b", "c"]}, 3),
        (SCORE, {"query": "q", "documents": ["a", "b", "c"]}, 3),
        (POOL, {"input": "a"}, 1),
        (GENERATE, {"token_ids": [1], "sampling_params": {"n": 3, "max_tokens": 5}}, 3),
        (RESPONSES, {"input": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, 1),
    ],
)
def test_prompts_and_copies_count_as_sequences(api: Api, fields: dict[str, Any], sequences: int) -> None:
    assert read(api, **fields).sequences == sequences


def test_a_rerankers_query_counts_for_each_document() -> None:
    found = read(SCORE, query="q" * 4000, documents=["a", "b", "c"])
    assert found.prompt_tokens == pytest.approx(3000, rel=0.02)


def test_limits_are_read_from_the_object_that_the_api_defines() -> None:
    assert read(GENERATE, token_ids=[1], max_tokens=9, sampling_params={"max_tokens": 5}).output_tokens == 5


def test_a_pooling_request_generates_no_tokens() -> None:
    assert {read(api, input="x").output_tokens for api in (EMBED, POOL)} == {0}


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1/chat/completions?x=/v1/completions", CHAT),
        ("/a/b/v1/completions", COMPLETIONS),
        ("/v1/unheard-of", UNKNOWN),
        ("/health", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_the_path_selects_the_api(path: str, api: Api) -> None:
    assert api_of(path) is api


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["content", "image_url", "type", "source", "text", "output", "x"]), inner)
        ),
    ),
    st.sampled_from(
        ["messages", "prompt", "input", "documents", "text_2", "token_ids", "n", "max_tokens", "sampling_params"]
    ),
)
def test_any_value_of_a_field_is_counted(value: object, field: str) -> None:
    for api in (UNKNOWN, CHAT, COMPLETIONS, GENERATE, SCORE, POOL):
        found = read(api, **{field: value})
        assert found.prompt_tokens >= 0
        assert 1 <= found.sequences <= MAX_SEQUENCES
        assert found.output_tokens >= 0


def member(unit: str, field: str = "messages") -> Callable[[int], bytes]:
    return lambda count: b'{"model":"m","%s":[%s{}]}' % (field.encode(), unit.encode() * count)


SHAPES: dict[str, Callable[[int], bytes]] = {
    "messages": member('{"role":"user","content":"x"},'),
    "parts": lambda count: b'{"model":"m","messages":[{"content":[%s{}]}]}' % (b'{"image_url":"x"},' * count),
    "empty objects": member("{},"),
    "keys": lambda count: b'{"model":"m",%s"z":1}' % (b'"a":1,' * count),
    "repeated fields": lambda count: b'{"model":"m",%s"z":1}' % (b'"prompt":"a",' * count),
    "nested lists": lambda count: b'{"model":"m","messages":%s' % (b"[" * count),
    "nested objects": lambda count: b'{"model":"m","messages":[%s' % (b'{"content":[' * count),
    "brackets": lambda count: b'{"model":"m","prompt":"%s"}' % (b"[" * count),
    "brackets after spaces": lambda count: b'{"model":"m","messages":[{"content":"%s"}]}' % (b"         [" * count),
    "escapes": lambda count: b'{"model":"m","prompt":"%s"}' % (b"\\n" * count),
    "escaped backslashes": lambda count: b'{"model":"m","prompt":["%s"]}' % (b"\\\\u" * count),
    "escaped characters": lambda count: b'{"model":"m","prompt":"%s"}' % (b"\\u4e2d" * count),
    "half surrogates": lambda count: b'{"model":"m","prompt":"%s"}' % (b"\\ud800" * count),
    "ids": lambda count: b'{"model":"m","prompt":[%s0]}' % (b"0," * count),
    "lists of ids": lambda count: b'{"model":"m","prompt":[%s[0]]}' % (b"[0]," * count),
    "strings": lambda count: b'{"model":"m","prompt":[%s"a"]}' % (b'"a",' * count),
    "digits": lambda count: b'{"model":"m","max_tokens":%s}' % (b"9" * count),
    "digits in a string": lambda count: b'{"model":"m","max_tokens":"%s"}' % (b"9" * count),
    "name": lambda count: b'{"model":"%s"}' % (b"m" * count),
    "name of escapes": lambda count: b'{"model":"%s"}' % (b"\\u00e9" * count),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("api", [CHAT, COMPLETIONS, UNKNOWN], ids=["chat", "completions", "unknown"])
def test_reading_a_body_is_linear_in_its_length(name: str, api: Api) -> None:
    assert_linear(lambda body: read_body(body, True, api), SHAPES[name], 5_000)


@pytest.mark.parametrize("name", ["keys", "escapes", "half surrogates", "nested lists", "messages"])
def test_renaming_a_body_is_linear_in_its_length(name: str) -> None:
    assert_linear(lambda body: rename_request(body, "m", "n"), SHAPES[name], 2_000)


@pytest.mark.parametrize(
    "unit",
    [
        b"\r\n--",
        b"\r\n--Bx",
        b"\r",
        b'--B\r\ncontent-disposition: form-data; name="a"\r\n\r\n\r\n',
        b"; a=b",
        b'; a="',
        b"\\",
        b"a: b\r\n",
    ],
)
@pytest.mark.parametrize("head", [b"", b"content-disposition: form-data"])
def test_reading_a_form_is_linear_in_its_length(unit: bytes, head: bytes) -> None:
    def shape(count: int) -> bytes:
        return b"--B\r\n" + head + unit * count + b"\r\n\r\nm\r\n--B--"

    kind = "multipart/form-data; boundary=B"
    assert_linear(lambda body: read_form_body(body, kind, True, api_of("/v1/audio/transcriptions")), shape, 5_000)


def test_a_lone_surrogate_in_the_prompt_keeps_an_emoji_in_the_name() -> None:
    body = b'{"model":"A\\ud83d\\ude00","prompt":"\\ud800"}'
    found = read_body(body, True, COMPLETIONS)
    assert isinstance(found, ParsedBody)
    assert found.model == "A\N{GRINNING FACE}"
