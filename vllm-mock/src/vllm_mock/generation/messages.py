"""Chat messages as clients send them.

There is one type for each role, named as in the OpenAI client's types. Validation errors name every type that was
tried, as vLLM's do.
"""

from collections.abc import Sequence
from typing import Any, Literal, NotRequired, Required, TypeAlias

from typing_extensions import TypedDict

from vllm_mock.tokens.tokenizer import Turn

Content: TypeAlias = str | list[dict[str, Any]]
"""Text, or a list of parts. Only parts with `text` are read."""


class ChatCompletionDeveloperMessageParam(TypedDict):
    content: Content
    role: Literal["developer"]
    name: NotRequired[str]


class ChatCompletionSystemMessageParam(TypedDict):
    content: Content
    role: Literal["system"]
    name: NotRequired[str]


class ChatCompletionUserMessageParam(TypedDict):
    content: Content
    role: Literal["user"]
    name: NotRequired[str]


class ChatCompletionAssistantMessageParam(TypedDict):
    role: Literal["assistant"]
    content: NotRequired[Content | None]
    name: NotRequired[str]
    refusal: NotRequired[str | None]
    tool_calls: NotRequired[list[dict[str, Any]] | None]


class ChatCompletionToolMessageParam(TypedDict):
    content: Content
    role: Literal["tool"]
    tool_call_id: str


class ChatCompletionFunctionMessageParam(TypedDict):
    content: Content | None
    name: str
    role: Literal["function"]


class CustomChatCompletionMessageParam(TypedDict, total=False):
    """Any other role."""

    role: Required[str]
    content: Content | None
    name: str
    tool_call_id: str | None
    tool_calls: list[dict[str, Any]] | None
    reasoning: str | None


class Message(TypedDict):
    """A message of OpenAI's harmony format. vLLM accepts it for models that use it; here only errors name it."""

    author: dict[str, Any]
    content: list[dict[str, Any]]


ChatMessageParam: TypeAlias = (
    ChatCompletionDeveloperMessageParam
    | ChatCompletionSystemMessageParam
    | ChatCompletionUserMessageParam
    | ChatCompletionAssistantMessageParam
    | ChatCompletionToolMessageParam
    | ChatCompletionFunctionMessageParam
    | CustomChatCompletionMessageParam
    | Message
)


def turns(messages: Sequence[ChatMessageParam]) -> list[Turn]:
    """The input of the chat template: roles and text. Images and audio are dropped."""
    return [Turn(str(message.get("role", "")), text_of(message.get("content"))) for message in messages]


def text_of(content: Content | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(str(part["text"]) for part in content if "text" in part)
