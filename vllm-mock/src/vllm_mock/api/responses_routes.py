"""/v1/responses: the answers of /v1/chat/completions in the format of OpenAI's Responses API.

No recording covers it; the format follows OpenAI's published description. Responses are not stored, so every
`previous_response_id` is unknown.
"""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from msgspec import Struct
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from vllm_mock.api.api_server import ApiServer, Entry, read
from vllm_mock.api.responses import json_response
from vllm_mock.generation.constraints import constrain
from vllm_mock.generation.errors import ApiError
from vllm_mock.generation.generation import Generation
from vllm_mock.generation.request_body import ChatBody, JsonObject


class ResponsesBody(BaseModel):
    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    input: str | list[JsonObject]
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = False
    temperature: float | None = None
    top_p: float | None = None
    text: JsonObject | None = None
    metadata: dict[str, str] | None = None
    previous_response_id: str | None = None


class OutputText(Struct, frozen=True):
    text: str
    type: str = "output_text"
    annotations: list[str] = []
    logprobs: list[str] = []


class OutputMessage(Struct, frozen=True):
    id: str
    status: str
    content: list[OutputText]
    type: str = "message"
    role: str = "assistant"


class CachedTokens(Struct, frozen=True):
    cached_tokens: int


class ReasoningTokens(Struct, frozen=True):
    reasoning_tokens: int = 0


class ResponseUsage(Struct, frozen=True):
    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class IncompleteDetails(Struct, frozen=True):
    reason: str


class ResponseObject(Struct, frozen=True):
    id: str
    created_at: int
    status: str
    model: str
    output: list[OutputMessage]
    usage: ResponseUsage | None
    instructions: str | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    metadata: dict[str, str]
    incomplete_details: IncompleteDetails | None = None
    object: str = "response"
    error: None = None
    parallel_tool_calls: bool = True
    tool_choice: str = "auto"
    tools: list[str] = []


class Event(Struct, frozen=True, omit_defaults=True):
    """One event of a stream. Its fields depend on its type."""

    type: str
    sequence_number: int
    response: ResponseObject | None = None
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    item: OutputMessage | None = None
    part: OutputText | None = None
    delta: str | None = None
    text: str | None = None


def responses_routes(api_server: ApiServer) -> list[Entry]:
    async def respond(request: Request) -> Response:
        body = await read(request, ResponsesBody)
        if body.previous_response_id is not None:
            message = f"Response with id '{body.previous_response_id}' not found."
            raise ApiError(404, message, "response_id", "invalid_request_error")
        chat = _as_chat(body)
        prepared = api_server.replica.chat(chat, uuid.uuid4().hex)
        constrain(api_server.replica, chat, prepared)
        generation = await api_server.begin(prepared, chat)
        if chat.stream:
            return api_server.stream(generation, _events(body, generation))
        await api_server.finish(request, generation)
        return json_response(_response(body, generation))

    return [("POST", "/v1/responses", respond)]


def _as_chat(body: ResponsesBody) -> ChatBody:
    """The equivalent chat request. Raises ApiError for what the chat API rejects."""
    items = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    messages = [_message(item) for item in items if item.get("type", "message") == "message"]
    if body.instructions is not None:
        messages.insert(0, {"role": "system", "content": body.instructions})
    text_format: JsonObject = (body.text or {}).get("format") or {}
    is_schema = text_format.get("type") == "json_schema"
    response_format = {"type": "json_schema", "json_schema": text_format} if is_schema else text_format or None
    return ChatBody.model_validate(
        {
            "model": body.model,
            "messages": messages,
            "max_completion_tokens": body.max_output_tokens,
            "stream": body.stream,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "response_format": response_format,
        }
    )


def _message(item: JsonObject) -> JsonObject:
    return {"role": item.get("role", "user"), "content": item.get("content", "")}


def _response(body: ResponsesBody, generation: Generation, in_progress: bool = False) -> ResponseObject:
    """The response object of a finished generation, or of one that is `in_progress`."""
    prepared, choice = generation.prepared, generation.choices[0]
    cut = choice.finish_reason == "length"
    status = "in_progress" if in_progress else "incomplete" if cut else "completed"
    prompt, generated = prepared.prompt_tokens, generation.generated
    usage = ResponseUsage(prompt, CachedTokens(choice.cached_tokens), generated, ReasoningTokens(), prompt + generated)
    return ResponseObject(
        _prefixed_id("resp", generation),
        prepared.created,
        status,
        prepared.model,
        [] if in_progress else [_item(generation, status)],
        None if in_progress else usage,
        body.instructions,
        body.max_output_tokens,
        1.0 if body.temperature is None else body.temperature,
        1.0 if body.top_p is None else body.top_p,
        body.metadata or {},
        IncompleteDetails("max_output_tokens") if cut and not in_progress else None,
    )


def _item(generation: Generation, status: str) -> OutputMessage:
    text = [] if status == "in_progress" else [OutputText(generation.choices[0].text.text)]
    return OutputMessage(_prefixed_id("msg", generation), status, text)


def _prefixed_id(kind: str, generation: Generation) -> str:
    return f"{kind}_{generation.prepared.id.removeprefix('chatcmpl-')}"


async def _events(body: ResponsesBody, generation: Generation) -> AsyncIterator[bytes]:
    number = 0

    def event(kind: str, **fields: Any) -> bytes:
        nonlocal number
        data = msgspec.json.encode(Event(f"response.{kind}", number, **fields))
        number += 1
        return f"event: response.{kind}\ndata: ".encode() + data + b"\n\n"

    created = _response(body, generation, in_progress=True)
    item_id = _prefixed_id("msg", generation)
    place: dict[str, Any] = {"item_id": item_id, "output_index": 0, "content_index": 0}
    yield event("created", response=created)
    yield event("in_progress", response=created)
    yield event("output_item.added", output_index=0, item=_item(generation, "in_progress"))
    yield event("content_part.added", **place, part=OutputText(""))
    async for progress in generation.steps():
        if progress.text:
            yield event("output_text.delta", **place, delta=progress.text)
    finished = _response(body, generation)
    part = finished.output[0].content[0]
    yield event("output_text.done", **place, text=part.text)
    yield event("content_part.done", **place, part=part)
    yield event("output_item.done", output_index=0, item=finished.output[0])
    # vLLM ends every stream with this event, also if the answer was cut at its limit.
    yield event("completed", response=finished)
