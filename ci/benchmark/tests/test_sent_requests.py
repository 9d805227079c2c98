"""The sent requests equal those of `vllm bench serve`."""

import json
from typing import Any

import pytest
from benchmark.load.target import Api, Message, Target, request_bytes
from benchmark.workload import Prompt
from recorded_bench import recording

TARGET = Target("http://gateway:8080", "/model/qwen")


def parsed(request: bytes) -> tuple[str, dict[str, str], dict[str, Any]]:
    head, _, body = request.partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    return line, dict(header.split(": ", 1) for header in headers), json.loads(body)


def test_completion_requests_equal_the_recorded_ones() -> None:
    """Fields are in the same order."""
    sent = recording("bench/requests-sent.json")["requests"]
    requests = [request for request in sent if request["path"] == "/v1/completions"]
    assert len(requests) == 3
    for index, request in enumerate(requests):
        line, headers, body = parsed(request_bytes(TARGET, index, Prompt(request["body"]["prompt"], 20, 8)))
        assert line == "POST /v1/completions HTTP/1.1"
        assert list(body.items()) == list(request["body"].items())
        assert {"X-Request-ID", "Content-Type", "Content-Length", "Host", "Accept"} <= headers.keys()


def test_chat_requests_equal_the_recorded_ones() -> None:
    """Fields are in the same order."""
    target = Target("http://gateway:8080", "/model/qwen", api=Api.CHAT)
    requests = [request for request in recording("bench/requests-sent.json")["requests"] if "chat" in request["path"]]
    assert len(requests) == 2
    for index, request in enumerate(requests):
        text = request["body"]["messages"][0]["content"][0]["text"]
        line, _, body = parsed(request_bytes(target, index, Prompt(text, 20, 8)))
        assert line == "POST /v1/chat/completions HTTP/1.1"
        assert list(body.items()) == list(request["body"].items())


def test_temperature_and_ignore_eos_are_sent_only_if_set() -> None:
    plain = parsed(request_bytes(TARGET, 0, Prompt("Hi", 1, 2), ignore_eos=False))[2]
    assert {"temperature", "ignore_eos"}.isdisjoint(plain)
    cold = parsed(request_bytes(Target("http://g", "m", temperature=0.0), 0, Prompt("Hi", 1, 2)))[2]
    assert (cold["temperature"], cold["ignore_eos"]) == (0.0, True)


def test_later_turns_carry_the_conversation_so_far() -> None:
    before = (Message("user", "One?"), Message("assistant", " Two."))
    assert parsed(request_bytes(TARGET, 0, Prompt(" Three?", 2, 5), before))[2]["prompt"] == "One? Two. Three?"
    chat = parsed(request_bytes(Target("http://g", "m", api=Api.CHAT), 0, Prompt("Three?", 2, 5), before))[2]
    assert [message["role"] for message in chat["messages"]] == ["user", "assistant", "user"]


@pytest.mark.parametrize("url", ["gateway:8080", "ftp://gateway", "http://", "http://gateway:99999"])
def test_an_invalid_url_is_rejected(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- the port's message is Python's own
        _ = Target(url, "m").url


def test_a_path_of_the_base_url_precedes_the_endpoint() -> None:
    line, headers, _ = parsed(request_bytes(Target("http://gateway:80/tenant/", "m"), 0, Prompt("Hi", 1, 1)))
    assert line == "POST /tenant/v1/completions HTTP/1.1"
    assert headers["Host"] == "gateway:80"
