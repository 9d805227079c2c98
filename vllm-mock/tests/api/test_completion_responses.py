"""What clients of completions and chats get, beyond what the recordings show."""

import json

import pytest
from mock_server import events, mock_server


async def test_equal_requests_get_equal_text() -> None:
    async with mock_server() as mock:
        bodies = [(await mock.complete(prompt="hello", max_tokens=8, temperature=0)).json() for _ in range(2)]
        assert bodies[0]["choices"][0]["text"] == bodies[1]["choices"][0]["text"] != ""


async def test_another_seed_is_another_text() -> None:
    async with mock_server() as mock:
        one, other = [(await mock.complete(prompt="hello", max_tokens=8, seed=seed)).json() for seed in (1, 2)]
        assert one["choices"][0]["text"] != other["choices"][0]["text"]


async def test_a_stream_tells_the_text_that_a_whole_answer_has() -> None:
    async with mock_server() as mock:
        whole = (await mock.complete(prompt="hello", max_tokens=8, temperature=0)).json()
        stream = (await mock.complete(prompt="hello", max_tokens=8, temperature=0, stream=True)).text
        told = [json.loads(each) for each in events(stream)[:-1]]
        assert "".join(each["choices"][0]["text"] for each in told) == whole["choices"][0]["text"]
        assert events(stream)[-1] == "[DONE]"


async def test_a_chat_without_a_limit_ends_by_itself() -> None:
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
    ("body", "status", "word"),
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
async def test_what_vllm_refuses_is_refused(body: dict[str, object], status: int, word: str) -> None:
    async with mock_server() as mock:
        response = await mock.complete(**body)
        assert response.status_code == status
        assert word in response.json()["error"]["message"]
        assert await mock.metric("vllm:prompt_tokens_total") == 0


async def test_a_body_that_nests_too_deeply_is_bad_json() -> None:
    async with mock_server() as mock:
        response = await mock.client.post(
            "/v1/completions", content="[" * 200_000, headers={"content-type": "application/json"}
        )
        assert response.status_code == 400


async def test_every_served_name_answers_under_itself() -> None:
    async with mock_server(served_model_name=["one", "two"]) as mock:
        assert (await mock.complete(model="two", prompt="x", max_tokens=1)).json()["model"] == "two"
        assert [each["id"] for each in (await mock.client.get("/v1/models")).json()["data"]] == ["one", "two"]


async def test_json_that_was_asked_for_is_json() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "stars": {"type": "integer", "minimum": 3}},
        "required": ["city", "stars"],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "review", "schema": schema}}
    async with mock_server() as mock:
        response = await mock.chat(messages=[{"role": "user", "content": "x"}], response_format=wanted)
        choice = response.json()["choices"][0]
        review = json.loads(choice["message"]["content"])
        assert list(review) == ["city", "stars"]
        assert review["stars"] >= 3
        assert choice["finish_reason"] == "stop"
