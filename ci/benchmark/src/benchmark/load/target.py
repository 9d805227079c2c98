"""Targets, and the bytes of the requests to them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import UNSET, UnsetType

from benchmark.workload import Prompt


class Api(StrEnum):
    """The API that carries the prompt."""

    COMPLETIONS = "completions"
    CHAT = "chat"

    @property
    def endpoint(self) -> str:
        """The default path of the API."""
        return "/v1/completions" if self is Api.COMPLETIONS else "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Target:
    """An OpenAI-compatible server, and the settings of every request to it."""

    base_url: str
    """Scheme, host, port, and any path before the endpoint's path."""
    model: str
    """The model's name at the server."""
    api: Api = Api.COMPLETIONS
    endpoint: str | None = None
    """The path; None means the API's default path."""
    headers: tuple[tuple[str, str], ...] = ()
    temperature: float | None = None
    """None means that it is not sent, and the server's default applies."""
    logprobs: int | None = None
    request_id_prefix: str = "bench-"
    """Prefix of the header X-Request-ID. The request's index follows."""

    @property
    def url(self) -> SplitResult:
        """The URL of requests. Raises ValueError if it is no http(s) URL with a host."""
        url = urlsplit(self.base_url.rstrip("/") + (self.endpoint or self.api.endpoint))
        if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:
            raise ValueError(f"{self.base_url}: allowed is http://HOST[:PORT] or https://HOST[:PORT]")
        return url


class Message(msgspec.Struct, frozen=True):
    """A message of the conversation so far."""

    role: Literal["user", "assistant"]
    content: str


class _Part(msgspec.Struct, frozen=True):
    text: str
    type: Literal["text"] = "text"


class _ChatMessage(msgspec.Struct, frozen=True):
    role: str
    content: tuple[_Part, ...]


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = True


class _CompletionBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a completion request. Fields and their order are those of vLLM's client."""

    model: str
    prompt: str
    repetition_penalty: float = 1.0
    max_tokens: int
    logprobs: int | None
    stream: bool = True
    stream_options: _StreamOptions = _StreamOptions()
    temperature: float | UnsetType = UNSET
    ignore_eos: bool | UnsetType = UNSET


class _ChatBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a chat request. Fields and their order are those of vLLM's client."""

    model: str
    messages: tuple[_ChatMessage, ...]
    max_completion_tokens: int
    stream: bool = True
    stream_options: _StreamOptions = _StreamOptions()
    temperature: float | UnsetType = UNSET
    ignore_eos: bool | UnsetType = UNSET


def request_bytes(
    target: Target, index: int, prompt: Prompt, before: tuple[Message, ...] = (), ignore_eos: bool = True
) -> bytes:
    """The whole HTTP request for the next turn of a conversation. For /v1/completions the turns are joined to one
    text."""
    body = msgspec.json.encode(_body(target, prompt, before, ignore_eos))
    url = target.url
    host = url.netloc.rpartition("@")[2]
    head = [
        f"POST {url.path}{'?' + url.query if url.query else ''} HTTP/1.1",
        f"Host: {host}",
        "Accept: */*",
        "User-Agent: benchmark-serving",
        "Content-Type: application/json",
        f"X-Request-ID: {target.request_id_prefix}{index}",
        *(f"{name}: {value}" for name, value in target.headers),
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def _body(target: Target, prompt: Prompt, before: tuple[Message, ...], ignore_eos: bool) -> _CompletionBody | _ChatBody:
    temperature = UNSET if target.temperature is None else target.temperature
    eos = True if ignore_eos else UNSET
    if target.api is Api.COMPLETIONS:
        return _CompletionBody(
            model=target.model,
            prompt="".join(message.content for message in before) + prompt.text,
            max_tokens=prompt.output_tokens,
            logprobs=target.logprobs,
            temperature=temperature,
            ignore_eos=eos,
        )
    messages = (*before, Message("user", prompt.text))
    return _ChatBody(
        model=target.model,
        messages=tuple(_ChatMessage(message.role, (_Part(message.content),)) for message in messages),
        max_completion_tokens=prompt.output_tokens,
        temperature=temperature,
        ignore_eos=eos,
    )
