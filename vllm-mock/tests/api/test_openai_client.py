"""Compatibility with OpenAI's client."""

import json

from mock_server import mock_server
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionToolUnionParam
from vllm_mock.api.running import Listener, listen, serving
from vllm_mock.serve import build_api_server
from vllm_mock.settings import ServeSettings
from vllm_mock.tokens.qwen import QwenTokenizer

_TOOLS: list[ChatCompletionToolUnionParam] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


async def test_models_completions_and_chats() -> None:
    async with mock_server() as mock, AsyncOpenAI(base_url=f"{mock.url}/v1", api_key="x") as client:
        assert [model.id async for model in await client.models.list()] == ["/model/qwen"]
        text = await client.completions.create(model="/model/qwen", prompt="hello", max_tokens=5)
        assert text.usage is not None
        assert text.usage.completion_tokens == 5
        chat = await client.chat.completions.create(
            model="/model/qwen",
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=5,
            logprobs=True,
            top_logprobs=2,
        )
        assert chat.choices[0].finish_reason == "length"
        assert chat.choices[0].logprobs is not None
        assert len(chat.choices[0].logprobs.content or []) == 5


async def test_streams() -> None:
    async with mock_server() as mock, AsyncOpenAI(base_url=f"{mock.url}/v1", api_key="x") as client:
        stream = await client.chat.completions.create(
            model="/model/qwen",
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 5


async def test_embeddings_in_both_encodings_are_the_same() -> None:
    async with mock_server() as mock, AsyncOpenAI(base_url=f"{mock.url}/v1", api_key="x") as client:
        # The client's default encoding is base64.
        packed = await client.embeddings.create(model="/model/qwen", input=["a cat", "a dog"])
        plain = await client.embeddings.create(model="/model/qwen", input=["a cat", "a dog"], encoding_format="float")
        assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
        assert packed.data[0].embedding != packed.data[1].embedding


async def test_responses_whole_and_streamed() -> None:
    async with mock_server() as mock, AsyncOpenAI(base_url=f"{mock.url}/v1", api_key="x") as client:
        whole = await client.responses.create(model="/model/qwen", input="hi", max_output_tokens=4, temperature=0)
        assert whole.status == "incomplete"
        assert whole.usage is not None
        assert whole.usage.output_tokens == 4
        async with client.responses.stream(
            model="/model/qwen", input="hi", max_output_tokens=4, temperature=0
        ) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        assert kinds[0] == "response.created"
        assert kinds.count("response.output_text.delta") == 4
        assert final.output_text == whole.output_text


async def test_responses_fit_tools_and_schemas() -> None:
    settings = ServeSettings.model_validate({"time_scale": 100, "enable_auto_tool_choice": True})
    api_server = build_api_server(settings, QwenTokenizer())
    listener = Listener(api_server, listen("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.port}/v1"
    async with serving([listener]), AsyncOpenAI(base_url=url, api_key="x") as client:
        model = settings.names[0]
        called = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Weather in Rome?"}], tools=_TOOLS
        )
        call = (called.choices[0].message.tool_calls or [])[0]
        assert call.type == "function"
        assert called.choices[0].finish_reason == "tool_calls"
        assert call.function.name == "weather"
        assert set(json.loads(call.function.arguments)) == {"city"}
        constrained = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "x"}],
            response_format={"type": "json_object"},
        )
        assert isinstance(json.loads(constrained.choices[0].message.content or ""), dict)
        assert constrained.choices[0].finish_reason == "stop"
        stream = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "x"}], tools=_TOOLS, tool_choice="required", stream=True
        )
        deltas = [chunk.choices[0].delta.tool_calls or [] async for chunk in stream]
        functions = [calls[0].function for calls in deltas if calls]
        assert functions[0] is not None
        assert functions[0].name == "weather"
        arguments = "".join(function.arguments or "" for function in functions if function is not None)
        assert set(json.loads(arguments)) == {"city"}
