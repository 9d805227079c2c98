"""Responses of /v1/chat/completions, whole or in chunks."""

from collections.abc import AsyncIterator

from msgspec import UNSET, UnsetType

from vllm_mock.api.logprobs import chat_logprobs, prompt_logprobs
from vllm_mock.api.responses import DONE, event
from vllm_mock.api.schemas import (
    Chat,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    FunctionCall,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
)
from vllm_mock.api.usage import streamed_usage, usage
from vllm_mock.generation.constraints import ToolChoice
from vllm_mock.generation.generation import Choice, Generation, Progress
from vllm_mock.generation.messages import text_of
from vllm_mock.generation.replica import Replica
from vllm_mock.generation.request_body import ChatBody

_ROLE = "assistant"


def whole(replica: Replica, body: ChatBody, generation: Generation, tool: ToolChoice | None) -> Chat:
    """The response body of a finished generation."""
    prepared = generation.prepared
    prompt = prepared.prompts[0]
    count = body.prompt_logprob_count
    return Chat(
        prepared.id,
        "chat.completion",
        prepared.created,
        prepared.model,
        [_choice(replica, body, generation, index, tool) for index in range(len(generation.choices))],
        None,
        replica.fingerprint,
        usage(replica, generation),
        prompt_logprobs(replica.tokenizer, prompt.tokens, count) if count is not None else None,
        list(prompt.tokens) if body.return_token_ids else None,
    )


async def chunks(
    replica: Replica, body: ChatBody, generation: Generation, tool: ToolChoice | None
) -> AsyncIterator[bytes]:
    """The events of a stream. Raises ApiError if the engine fails."""
    prepared = generation.prepared
    begun = False
    async for progress in generation.steps():
        if not begun:
            begun = True
            for chunk in _first_chunks(body, generation):
                yield event(chunk)
        chunk = _chunk(generation, [_chunk_choice(replica, body, generation, progress, tool)])
        if body.continuous_usage:
            chunk.usage = streamed_usage(prepared.prompt_tokens, progress.generated)
        if progress.finish_reason is not None and not body.include_usage:
            chunk.system_fingerprint = replica.fingerprint
        yield event(chunk)
    if body.include_usage:
        cached = generation.choices[0].cached_tokens if replica.options.prompt_tokens_details else None
        chunk = _chunk(generation, [])
        chunk.usage = streamed_usage(prepared.prompt_tokens, generation.generated, cached)
        chunk.system_fingerprint = replica.fingerprint
        yield event(chunk)
    yield DONE


def _first_chunks(body: ChatBody, generation: Generation) -> list[ChatChunk]:
    """Chunks sent before the first token: the role of every choice, then the echoed message if there is one."""
    first: list[ChatChunk] = []
    for index in range(len(generation.choices)):
        chunk = _chunk(generation, [ChatChunkChoice(index, ChatDelta(_ROLE, ""), None, None)])
        chunk.prompt_token_ids = list(generation.prepared.prompts[0].tokens) if body.return_token_ids else None
        chunk.prompt_text = None
        if body.continuous_usage:
            chunk.usage = streamed_usage(generation.prepared.prompt_tokens, 0)
        first.append(chunk)
    if echoed := _echoed(body):
        first += [
            _chunk(generation, [ChatChunkChoice(index, ChatDelta(content=echoed), None, None)])
            for index in range(len(generation.choices))
        ]
    return first


def _chunk(generation: Generation, choices: list[ChatChunkChoice]) -> ChatChunk:
    prepared = generation.prepared
    return ChatChunk(prepared.id, "chat.completion.chunk", prepared.created, prepared.model, choices)


def _chunk_choice(
    replica: Replica, body: ChatBody, generation: Generation, progress: Progress, tool: ToolChoice | None
) -> ChatChunkChoice:
    choice = generation.choices[progress.choice]
    logprobs = None
    if body.logprob_count is not None:
        piece = choice.pieces[progress.generated - 1]
        logprobs = chat_logprobs(
            replica.tokenizer, [progress.token], [piece], body.logprob_count, progress.generated - 1
        )
    delta = ChatDelta(content=progress.text)
    finish_reason = progress.finish_reason
    if tool is not None:
        delta = ChatDelta(tool_calls=[_tool_delta(tool, progress)])
        finish_reason = tool.finish_reason if finish_reason == "stop" else finish_reason
    return ChatChunkChoice(
        progress.choice,
        delta,
        logprobs,
        finish_reason,
        UNSET if finish_reason is None else progress.stop_reason,
        [progress.token] if body.return_token_ids else None,
    )


def _tool_delta(tool: ToolChoice, progress: Progress) -> ToolCallDelta:
    """A delta of the tool call: its name with the first token, its arguments token by token."""
    first = progress.generated == 1
    call_id: str | UnsetType = tool.call_id(progress.choice) if first else UNSET
    name: str | UnsetType = tool.name if first else UNSET
    kind: str | UnsetType = "function" if first else UNSET
    return ToolCallDelta(call_id, kind, 0, FunctionDelta(name, progress.text))


def _choice(
    replica: Replica, body: ChatBody, generation: Generation, index: int, tool: ToolChoice | None
) -> ChatChoice:
    choice = generation.choices[index]
    finish_reason = choice.finish_reason
    if tool is not None and finish_reason == "stop":
        finish_reason = tool.finish_reason
    return ChatChoice(
        index,
        _message(replica, body, choice, index, tool),
        _logprobs(replica, body, choice),
        finish_reason,
        choice.stop_reason,
        list(choice.tokens) if body.return_token_ids else None,
    )


def _message(replica: Replica, body: ChatBody, choice: Choice, index: int, tool: ToolChoice | None) -> ChatMessage:
    older = replica.options.older_chat_fields
    calls: list[ToolCall] | UnsetType = [] if older else UNSET
    content: str = _echoed(body) + choice.text.text
    if tool is not None:
        calls = [ToolCall(tool.call_id(index), "function", FunctionCall(tool.name, content))]
        content = ""
    return ChatMessage(_ROLE, content, tool_calls=calls, reasoning_content=None if older else UNSET)


def _logprobs(replica: Replica, body: ChatBody, choice: Choice) -> ChatLogprobs | None:
    if body.logprob_count is None:
        return None
    return chat_logprobs(replica.tokenizer, choice.tokens, choice.pieces, body.logprob_count)


def _echoed(body: ChatBody) -> str:
    """The last message if `echo` is set and the assistant wrote it: the answer begins with it."""
    last = body.messages[-1]
    return text_of(last.get("content")) if body.echo and last.get("role") == _ROLE else ""
