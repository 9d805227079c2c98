"""Responses to completions and chats that the recordings do not cover."""

import json

import pytest
from mock_server import events, mock_server


async def test_equal_requests_get_equal_text() -> None:
    async with mock_server() as mock:
        bodies = [(await mock.complete(prompt="hello", max_tokens=8, temperature=0)).json() for _ in range(2)]
        assert bodies[0]["choices"][0]["text"] == bodies[1]["choices"][0]["text"] != ""


async def test_another_seed_gives_another_text() -> None:
    async with mock_server() as mock:
        one, other = [(await mock.complete(prompt="hello", max_tokens=8, seed=seed)).json() for seed in (1, 2)]
        assert one["choices"][0]["text"] != other["choices"][0]["text"]


async def test_a_stream_has_the_text_of_a_whole_response() -> None:
    async with mock_server() as mock:
        whole = (await mock.complete(prompt="hello", max_tokens=8, temperature=0)).json()
        stream = (await mock.complete(prompt="hello", max_tokens=8, temperature=0, stream=True)).text
        chunks = [json.loads(event) for event in events(stream)[:-1]]
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
        assert events(stream)[-1] == "[DONE]"


async def test_a_chat_without_a_limit_ends_with_stop() -> None:
    async with mock_server(answer_tokens=20) as mock:
        answer = (await mock.chat(messages=[{"role": "user", "content": "hi"}])).json()
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert 10 <= answer["usage"]["completion_tokens"] <= 31


async def test_every_chat_message_has_the_fields_that_older_clients_read() -> None:
    async with mock_server() as mock:
        message = (await mock.chat(messages=[{"role": "user", "content": "hi"}], max_tokens=1)).json()["choices"][0][
            "message"
        ]
        assert message["reasoning_content"] is None
        assert message["tool_calls"] == []


async def test_without_older_fields_a_message_is_as_recorded() -> None:
    async with mock_server(older_chat_fields=False) as mock:
        message = (await mock.chat(messages=[{"role": "user", "content": "hi"}], max_tokens=1)).json()["choices"][0][
            "message"
        ]
        assert list(message) == ["role", "content", "refusal", "annotations", "audio", "function_call", "reasoning"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"prompt": "x", "presence_penalty": 3}, 400, "presence_penalty must be in [-2, 2]"),
        (
            {"prompt": "x", "min_tokens": 9, "max_tokens": 3},
            400,
            "min_tokens must be less than or equal",
        ),
        ({"prompt": "x", "stop": [""]}, 400, "stop cannot contain an empty string"),
        ({"prompt": "x", "top_k": -2}, 400, "top_k must be 0"),
        ({"prompt": "x", "min_p": 2}, 400, "min_p must be in [0, 1]"),
        ({"prompt": "x", "prompt_logprobs": 1, "stream": True}, 400, "`prompt_logprobs` are not available"),
        ({"prompt": [[]]}, 400, "cannot be empty"),
        ({"prompt": [-1]}, 400, "greater_than_equal"),
    ],
)
async def test_requests_that_vllm_rejects_are_rejected(body: dict[str, object], status: int, message: str) -> None:
    async with mock_server() as mock:
        response = await mock.complete(**body)
        assert response.status_code == status
        assert message in response.json()["error"]["message"]
        assert await mock.metric("vllm:prompt_tokens_total") == 0


async def test_too_deeply_nested_json_is_rejected() -> None:
    async with mock_server() as mock:
        response = await mock.client.post(
            "/v1/completions", content="[" * 200_000, headers={"content-type": "application/json"}
        )
        assert response.status_code == 400


async def test_a_response_has_the_served_name_of_its_request() -> None:
    async with mock_server(served_model_name=["one", "two"]) as mock:
        assert (await mock.complete(model="two", prompt="x", max_tokens=1)).json()["model"] == "two"
        assert [card["id"] for card in (await mock.client.get("/v1/models")).json()["data"]] == ["one", "two"]


async def test_a_json_schema_response_fits_its_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "stars": {"type": "integer", "minimum": 3}},
        "required": ["city", "stars"],
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "review", "schema": schema}}
    async with mock_server() as mock:
        response = await mock.chat(messages=[{"role": "user", "content": "x"}], response_format=response_format)
        choice = response.json()["choices"][0]
        review = json.loads(choice["message"]["content"])
        assert list(review) == ["city", "stars"]
        assert review["stars"] >= 3
        assert choice["finish_reason"] == "stop"
