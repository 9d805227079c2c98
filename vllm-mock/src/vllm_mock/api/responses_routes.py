"""/v1/responses: the same answers as the chat's, in the shapes of OpenAI's newer API. Not recorded: from its published
description. Nothing is stored, so there is no `previous_response_id`."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from msgspec import Struct
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from vllm_mock.api.api_server import Door, Entry, read
from vllm_mock.api.responses import json_response
from vllm_mock.generation.constraints import constrain
from vllm_mock.generation.errors import Refused
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
    """One event of a stream; which fields it has depends on its type."""

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


def responses_routes(door: Door) -> list[Entry]:
    async def respond(request: Request) -> Response:
        body = await read(request, ResponsesBody)
        if body.previous_response_id is not None:
            message = f"Response with id '{body.previous_response_id}' not found."
            raise Refused(404, message, "response_id", "invalid_request_error")
        chat = _as_chat(body)
        asked = door.replica.chat(chat, uuid.uuid4().hex)
        constrain(door.replica, chat, asked)
        generation = await door.begin(asked, chat)
        if chat.stream:
            return door.stream(generation, _events(body, generation))
        await door.finish(request, generation)
        return json_response(_response(body, generation))

    return [("POST", "/v1/responses", respond)]


def _as_chat(body: ResponsesBody) -> ChatBody:
    """Raises Refused for what a chat would refuse."""
    items = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    messages = [_message(item) for item in items if item.get("type", "message") == "message"]
    if body.instructions is not None:
        messages.insert(0, {"role": "system", "content": body.instructions})
    wanted: JsonObject = (body.text or {}).get("format") or {}
    formed = {"type": "json_schema", "json_schema": wanted} if wanted.get("type") == "json_schema" else wanted or None
    return ChatBody.model_validate(
        {
            "model": body.model,
            "messages": messages,
            "max_completion_tokens": body.max_output_tokens,
            "stream": body.stream,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "response_format": formed,
        }
    )


def _message(item: JsonObject) -> JsonObject:
    return {"role": item.get("role", "user"), "content": item.get("content", "")}


def _response(body: ResponsesBody, generation: Generation, begun: bool = False) -> ResponseObject:
    """Finished, or just `begun`."""
    asked, choice = generation.asked, generation.choices[0]
    cut = choice.finish_reason == "length"
    status = "in_progress" if begun else "incomplete" if cut else "completed"
    prompt, said = asked.prompt_tokens, generation.generated
    usage = ResponseUsage(prompt, CachedTokens(choice.cached_tokens), said, ReasoningTokens(), prompt + said)
    return ResponseObject(
        _named("resp", generation),
        asked.created,
        status,
        asked.model,
        [] if begun else [_item(generation, status)],
        None if begun else usage,
        body.instructions,
        body.max_output_tokens,
        1.0 if body.temperature is None else body.temperature,
        1.0 if body.top_p is None else body.top_p,
        body.metadata or {},
        IncompleteDetails("max_output_tokens") if cut and not begun else None,
    )


def _item(generation: Generation, status: str) -> OutputMessage:
    text = [] if status == "in_progress" else [OutputText(generation.choices[0].text.text)]
    return OutputMessage(_named("msg", generation), status, text)


def _named(kind: str, generation: Generation) -> str:
    return f"{kind}_{generation.asked.id.removeprefix('chatcmpl-')}"


async def _events(body: ResponsesBody, generation: Generation) -> AsyncIterator[bytes]:
    number = 0

    def told(kind: str, **fields: Any) -> bytes:
        nonlocal number
        data = msgspec.json.encode(Event(f"response.{kind}", number, **fields))
        number += 1
        return f"event: response.{kind}\ndata: ".encode() + data + b"\n\n"

    begun = _response(body, generation, begun=True)
    item_id = _named("msg", generation)
    place: dict[str, Any] = {"item_id": item_id, "output_index": 0, "content_index": 0}
    yield told("created", response=begun)
    yield told("in_progress", response=begun)
    yield told("output_item.added", output_index=0, item=_item(generation, "in_progress"))
    yield told("content_part.added", **place, part=OutputText(""))
    async for progress in generation.steps():
        if progress.text:
            yield told("output_text.delta", **place, delta=progress.text)
    finished = _response(body, generation)
    part = finished.output[0].content[0]
    yield told("output_text.done", **place, text=part.text)
    yield told("content_part.done", **place, part=part)
    yield told("output_item.done", output_index=0, item=finished.output[0])
    # Also for an answer that was cut: vLLM ends every stream so.
    yield told("completed", response=finished)
