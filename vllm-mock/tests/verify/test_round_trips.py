"""Replays exchanges recorded from a mock, of kinds that are rare in the reference folder.

What verification extracts from a recording (text, token counts, earlier requests) must suffice to reproduce it.
"""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mock_server import MockServer, mock_server
from recordings import FOLDER
from vllm_mock.verify.http import verify_http
from vllm_mock.verify.recorded_server import read_server

SERVED = "/model/qwen"
OTHER_SERVER = """\
flags:
  model: /models/other
  served_model_name: [other]
  max_model_len: 512
  max_num_seqs: 3
  max_num_batched_tokens: 128
  block_size: 16
  num_gpu_blocks_override: 64
vocabulary_size: 800
step_floor_ms: 5
"""
CHAT = {"model": SERVED, "messages": [{"role": "user", "content": "Write a haiku"}]}
TEXT = {"model": SERVED, "prompt": "The quick brown fox"}
USAGE = {"include_usage": True}

EXCHANGES: list[tuple[str, str, Any]] = [
    ("echo-stream", "/v1/completions", {**TEXT, "max_tokens": 4, "echo": True, "stream": True}),
    ("echo-nothing", "/v1/completions", {**TEXT, "max_tokens": 0, "echo": True, "logprobs": 1}),
    ("logprobs-0", "/v1/completions", {**TEXT, "max_tokens": 3, "logprobs": 0}),
    ("prompt-logprobs", "/v1/completions", {**TEXT, "max_tokens": 2, "prompt_logprobs": 1}),
    ("logprobs-stream", "/v1/completions", {**TEXT, "max_tokens": 4, "logprobs": 2, "stream": True}),
    ("ids-stream", "/v1/completions", {**TEXT, "max_tokens": 4, "return_token_ids": True, "stream": True}),
    ("n-3", "/v1/completions", {**TEXT, "max_tokens": 3, "n": 3, "stream": True, "stream_options": USAGE}),
    ("prompts-n-2", "/v1/completions", {"prompt": ["one", "two more"], "n": 2, "max_tokens": 3}),
    ("ids", "/v1/completions", {"prompt": [[5, 6, 7], [8, 9]], "max_tokens": 3}),
    ("chat-logprobs-stream", "/v1/chat/completions", {**CHAT, "max_tokens": 3, "logprobs": True, "stream": True}),
    ("chat-ids", "/v1/chat/completions", {**CHAT, "max_tokens": 3, "return_token_ids": True}),
    ("chat-ids-stream", "/v1/chat/completions", {**CHAT, "max_tokens": 3, "return_token_ids": True, "stream": True}),
    (
        "chat-continuous",
        "/v1/chat/completions",
        {**CHAT, "max_tokens": 3, "stream": True, "stream_options": {**USAGE, "continuous_usage_stats": True}},
    ),
    ("tokenize-chat", "/tokenize", {**CHAT, "return_token_strs": True}),
    ("prompt-number", "/v1/completions", {"prompt": 5}),
    ("stop-number", "/v1/completions", {**TEXT, "stop": 5}),
    ("message-text", "/v1/chat/completions", {"messages": ["hello"]}),
    ("message-number", "/v1/chat/completions", {"messages": [{"role": "user", "content": 5}]}),
    ("detokenize-nothing", "/detokenize", {"model": SERVED}),
    ("detokenize-empty", "/detokenize", {"tokens": []}),
    ("lora-disabled", "/v1/unload_lora_adapter", {"lora_name": "x"}),
]


async def recorded(mock: MockServer, path: str, body: Any) -> dict[str, Any]:
    response = await mock.client.post(path, json=body)
    answer: dict[str, Any] = {"status": response.status_code, "headers": dict(response.headers)}
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        answer["body_lines"] = [{"line": line} for line in response.text.split("\n")[:-1]]
    elif response.headers.get("content-type") == "application/json":
        answer["body"] = response.json()
    else:
        answer["body_text"] = response.text
    headers = {"Content-Type": "application/json"}
    return {"request": {"method": "POST", "path": path, "headers": headers, "body": body}, "response": answer}


async def stop_strings(mock: MockServer) -> list[tuple[str, str, Any]]:
    """Requests with stop strings that occur in the output, across tokens and within them."""
    output = (await mock.complete(**TEXT, max_tokens=8, temperature=0)).json()["choices"][0]["text"]
    body = {**TEXT, "max_tokens": 20, "temperature": 0}
    return [
        (f"stop-{start}-{end}-{stream}-{include}", "/v1/completions", {
            **body, "stop": [output[start:end]], "stream": stream, "include_stop_str_in_output": include,
        })
        for start, end in ((9, 12), (10, 15), (2, 3), (17, 30))
        for stream in (False, True)
        for include in (False, True)
    ]  # fmt: skip


@pytest.mark.timeout(120)
async def test_exchanges_recorded_from_a_mock_are_reproduced(tmp_path: Path) -> None:
    (tmp_path / "http").mkdir()
    shutil.copy(FOLDER / "server.yaml", tmp_path)
    settings = read_server(tmp_path).settings("http/any.json").model_dump(exclude={"config"})
    async with mock_server(**settings) as mock:
        for name, path, body in [*EXCHANGES, *(await stop_strings(mock))]:
            (tmp_path / "http" / f"{name}.json").write_text(json.dumps(await recorded(mock, path, body)))
    results = await asyncio.to_thread(lambda: list(verify_http(tmp_path, "http")))
    assert {result.file: result.difference for result in results if result.difference is not None} == {}


@pytest.mark.timeout(120)
async def test_recordings_are_replayed_with_their_servers_limits(tmp_path: Path) -> None:
    """The responses differ from those of a server with the limits of 0.32.0."""
    (tmp_path / "http").mkdir()
    (tmp_path / "server.yaml").write_text(OTHER_SERVER)
    settings = read_server(tmp_path).settings("http/any.json").model_dump(exclude={"config"})
    requests = [
        ("tokenized", "/tokenize", {"prompt": "The quick brown fox"}),
        ("too-long", "/v1/completions", {"prompt": "The quick brown fox", "max_tokens": 700}),
        ("near-end", "/v1/completions", {"prompt": [1] * 500, "max_tokens": 100, "ignore_eos": True}),
        ("token", "/v1/completions", {"prompt": [700], "max_tokens": 2, "ignore_eos": True}),
    ]
    async with mock_server(**settings) as mock:
        for name, path, body in requests:
            (tmp_path / "http" / f"{name}.json").write_text(json.dumps(await recorded(mock, path, body)))

    def differences() -> dict[str, str | None]:
        return {result.file: result.difference for result in verify_http(tmp_path, "http")}

    assert set((await asyncio.to_thread(differences)).values()) == {None}
    shutil.copy(FOLDER / "server.yaml", tmp_path)
    other = await asyncio.to_thread(differences)
    assert None not in (other["http/tokenized.json"], other["http/too-long.json"])
