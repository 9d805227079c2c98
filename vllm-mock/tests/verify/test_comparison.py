"""Which differences between two responses are ignored and which are reported."""

import json
from typing import Any

import pytest
from vllm_mock.verify.compare import first_difference, first_line_difference, header_difference

BODY = {
    "id": "cmpl-0123456789abcdef",
    "created": 1795415145,
    "model": "m",
    "system_fingerprint": "vllm-0.32.0-243dbdee",
    "usage": {"prompt_tokens": 3},
}


def with_field(name: str, value: Any) -> Any:
    return {**BODY, name: value}


@pytest.mark.parametrize(
    "other",
    [
        with_field("id", "cmpl-fedcba9876543210"),
        with_field("created", 1800000000),
        with_field("system_fingerprint", "vllm-0.32.0-00000000"),
    ],
)
def test_generated_ids_times_and_digests_may_differ(other: Any) -> None:
    assert first_difference(BODY, other) is None


@pytest.mark.parametrize(
    "other",
    [
        with_field("id", "chatcmpl-0123456789abcdef"),
        with_field("id", "cmpl-0123456789abcde"),
        with_field("id", "cmpl-mine"),
        with_field("created", "1795415145"),
        with_field("created", 1795415145.5),
        with_field("system_fingerprint", "vllm-0.31.0-243dbdee"),
        with_field("usage", {"prompt_tokens": 4}),
        with_field("usage", {"prompt_tokens": 3, "more": None}),
        with_field("model", None),
        dict(reversed(BODY.items())),
    ],
)
def test_other_formats_and_fields_may_not_differ(other: Any) -> None:
    assert first_difference(BODY, other) is not None


def test_the_chunks_of_two_choices_may_interleave_differently() -> None:
    lines = [
        f'data: {{"choices":[{{"index":{index},"text":"{text}"}}]}}' for index, text in ((0, "a"), (1, "b"), (0, "c"))
    ]
    assert first_line_difference([*lines, "data: [DONE]"], [lines[1], lines[0], lines[2], "data: [DONE]"]) is None
    assert first_line_difference([*lines, "data: [DONE]"], [lines[2], lines[1], lines[0], "data: [DONE]"]) is not None


@pytest.mark.parametrize("ours", [["data: x"], ["data: x", "data: [DONE]", "data: [DONE]"], []])
def test_another_number_of_events_differs(ours: list[str]) -> None:
    assert first_line_difference(["data: x", "data: [DONE]"], ours) is not None


def test_missing_and_additional_headers_differ() -> None:
    same = {"content-type": "application/json", "content-length": "10"}
    assert header_difference(same, {**same, "date": "now", "vary": "Origin"}, True, None) is None
    assert header_difference(same, {**same, "x-other": "1"}, True, None) is not None
    assert header_difference(same, {**same, "content-length": "11"}, True, None) is not None
    assert header_difference(same, {**same, "content-length": "11"}, False, None) is None


def test_a_request_id_of_the_client_must_be_returned() -> None:
    ours = {"x-request-id": "0" * 32}
    assert header_difference({"x-request-id": "f" * 32}, ours, True, None) is None
    assert header_difference({"x-request-id": "mine"}, ours, True, "mine") is not None


def test_probabilities_may_differ_but_not_their_format() -> None:
    body = {"logprobs": {"tokens": ["a"], "token_logprobs": [-1.5], "top_logprobs": [{"a": -1.5, "b": -2.0}]}}
    other = json.loads(json.dumps(body).replace("-1.5", "-0.25").replace('"b"', '"c"'))
    assert first_difference(body, other) is None
    assert first_difference(body, {"logprobs": {**body["logprobs"], "token_logprobs": [None]}}) is not None
    assert first_difference(body, {"logprobs": {**body["logprobs"], "tokens": ["b"]}}) is not None
