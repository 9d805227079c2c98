"""Parsing of a request's body."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picker.rejection import Rejection
from picker.requestcontrol.apis import (
    CHAT,
    COMPLETIONS,
    DEFAULT_OUTPUT_TOKENS,
    MESSAGES,
    RESPONSES,
    UNKNOWN,
    Api,
)
from picker.requestcontrol.request_body import EMPTY_BODY, MAX_OUTPUT_TOKENS, ParsedBody, must_name_model, read_body


def read(body: bytes, api: Api = UNKNOWN) -> ParsedBody:
    found = read_body(body, True, api)
    assert isinstance(found, ParsedBody), found
    return found


def chat(content: object, **more: object) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **more}).encode()


@given(st.text(max_size=30), st.text(max_size=200))
def test_the_model_is_read_among_any_other_fields(model: str, content: str) -> None:
    """In all scripts, escaped or not."""
    body = {"messages": [{"content": content, "model": "x"}], "model": model, "metadata": {"model": "y"}}
    for ascii_only in (True, False):
        assert read(json.dumps(body, ensure_ascii=ascii_only).encode()).model == model


@pytest.mark.parametrize(
    "body",
    [
        b'{"mod\\u0065l":"\\u006d"}',
        b'{"model":"x","model":"m"}',
        b' \n{"model":"m"}\n ',
        b'{"model":"m","seed":9007199254740993,"x":1e400,"y":[1E-999,-0]}',
        b'{"model":"m","prompt":"\xff\xfe"}',
        b'\xef\xbb\xbf{"model":"m"}',
        b'{"model":"m","prompt":"cut \\ud83d"}',
        b'{"model":"m","prompt":"\\uDE00 turned \\uD83D round"}',
        b'{"model":"m","x":' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)
def test_a_body_that_a_server_may_accept_is_read(body: bytes) -> None:
    """Escapes in keys, repeated keys, numbers beyond 64 bits, bytes that are not UTF-8, a byte order mark, lone
    surrogates, deep nesting."""
    assert read(body).model == "m"


@given(st.text(max_size=60), st.integers(0, 12))
def test_a_lone_surrogate_anywhere_in_a_prompt_is_accepted(text: str, place: int) -> None:
    """Clients that split text by UTF-16 units send it."""
    broken = text[:place] + "\ud83d" + text[place:]
    assert read(chat(broken)).model == "m"
    assert read(chat(text)).model == "m"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (chat("hi"), chat("hi", max_tokens=5, stream=True, user="u")),
        (b'{"model":"m","prompt":"hi"}', b'{"temperature":0,"prompt":"hi","model":"m"}'),
        (b'{"model":"m","input":"hi"}', b'{"model":"m","input":"hi","store":false}'),
    ],
)
def test_equal_prompts_are_equal_bytes(first: bytes, second: bytes) -> None:
    """With any other fields, in any order."""
    assert read(first).prompt == read(second).prompt != b""


def test_tools_and_system_text_come_before_the_messages() -> None:
    """Chat templates place them there, so requests with the same tools have a common prefix."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    first, second = (read(chat(text, tools=tools, system="You are kind."), MESSAGES).prompt for text in ("a", "b"))
    beginning = json.dumps(tools).encode() + b'"You are kind."'
    assert first.startswith(beginning)
    assert second.startswith(beginning)


def test_the_cache_salt_is_read() -> None:
    assert read(chat("hi", cache_salt="s")).salt == b'"s"'
    assert read(chat("hi")).salt == b""


@pytest.mark.parametrize(
    ("api", "fields", "tokens"),
    [
        (CHAT, {"max_tokens": 7}, 7),
        (CHAT, {"max_completion_tokens": 8}, 8),
        (CHAT, {"max_completion_tokens": 8, "max_tokens": 7}, 8),
        (CHAT, {"max_output_tokens": 9}, DEFAULT_OUTPUT_TOKENS),
        (COMPLETIONS, {"max_completion_tokens": 8, "max_tokens": 7}, 7),
        (RESPONSES, {"max_output_tokens": 9, "max_tokens": 7}, 9),
        (MESSAGES, {"max_tokens": 7, "max_completion_tokens": 8}, 7),
        (CHAT, {"max_tokens": None}, DEFAULT_OUTPUT_TOKENS),
        (CHAT, {"max_tokens": "many"}, DEFAULT_OUTPUT_TOKENS),
        (CHAT, {"max_tokens": 1.5}, DEFAULT_OUTPUT_TOKENS),
        (CHAT, {"max_tokens": 0}, DEFAULT_OUTPUT_TOKENS),
        (CHAT, {"max_tokens": -3}, DEFAULT_OUTPUT_TOKENS),
        (CHAT, {"max_completion_tokens": 0, "max_tokens": 7}, 7),
        (CHAT, {"max_tokens": 10**400}, MAX_OUTPUT_TOKENS),
        (CHAT, {}, DEFAULT_OUTPUT_TOKENS),
    ],
)
def test_the_expected_output_is_the_limit_that_the_api_reads(api: Api, fields: dict[str, object], tokens: int) -> None:
    """A limit that is not a positive integer is ignored."""
    assert read(chat("hi", **fields), api).output_tokens == tokens


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [([1, 2, 3], 3), ([[1, 2], [3, 4, 5]], 5), ("x" * 398, 100), ([], 0), ([7], 1), (["text"], 2), ([[7]], 1)],
)
def test_prompt_tokens_are_ids_or_four_bytes_of_text(prompt: object, tokens: int) -> None:
    body = json.dumps({"model": "m", "prompt": prompt}, separators=(",", ":")).encode()
    assert read(body).prompt_tokens == tokens


@pytest.mark.parametrize(
    ("path", "content_type", "must"),
    [
        ("/v1/chat/completions", "application/json", True),
        ("/v1/completions?x=1", "", True),
        ("/v1/audio/transcriptions", "Multipart/Form-Data; boundary=1", True),
        ("/invocations", "application/json", True),
        ("/v2/rerank?x=1", "application/json", True),
        ("/inference/v1/generate", "", True),
        ("/team/v1/chat/completions", "", True),
        ("/v1/chat/complet%69ons", "", True),
        ("/v1/responses/resp_1/cancel", "application/json", False),
        ("/v1/load_lora_adapter", "application/json", False),
        ("/tokenize", "application/json", False),
        ("/", "", False),
    ],
)
def test_bodies_of_routes_that_compute_must_name_a_model(path: str, content_type: str, must: bool) -> None:
    assert must_name_model(path, content_type) is must


@given(
    st.binary(max_size=80) | st.lists(st.sampled_from(list('{}[]":,\\u m1')), max_size=40).map("".join).map(str.encode)
)
def test_any_bytes_are_parsed_or_rejected(body: bytes) -> None:
    """Nothing is raised. Without `strict` nothing is rejected."""
    found = read_body(body, strict=True)
    assert isinstance(found, ParsedBody | Rejection)
    if isinstance(found, Rejection):
        assert found.status == 400
    assert isinstance(read_body(body, strict=False), ParsedBody)


@pytest.mark.parametrize(("characters", "allowed"), [(256, True), (257, False), (1 << 20, False)])
def test_the_length_of_a_models_name_is_bounded(characters: int, allowed: bool) -> None:
    body = json.dumps({"model": "é" * characters, "prompt": "hi"}).encode()
    strict, lenient = read_body(body, strict=True), read_body(body, strict=False)
    assert isinstance(lenient, ParsedBody)
    assert (lenient.model is not None) is allowed
    if not allowed:
        assert isinstance(strict, Rejection)
        assert (strict.status, strict.reason) == (400, "model-too-long")
        assert len(strict.message) < 100


@pytest.mark.parametrize("body", [b"", b"x", b"[1]", b'{"model":3}', b"[" * 100_000])
def test_without_strict_a_body_needs_no_model(body: bytes) -> None:
    """Other routes have other bodies."""
    found = read_body(body, strict=False)
    assert isinstance(found, ParsedBody)
    assert found.model is None
    assert found.prompt == EMPTY_BODY.prompt
