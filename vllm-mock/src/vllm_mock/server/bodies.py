"""What clients may ask, read as vLLM reads it: unknown fields are ignored, numbers may be text."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vllm_mock.server.errors import Refused


class StreamOptions(BaseModel):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class Body(BaseModel):
    """Fields that both kinds of completion have."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    n: int = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] = Field(default_factory=list[int])
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    cache_salt: str | None = None

    @property
    def limit(self) -> int | None:
        return self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def check(self, max_model_len: int) -> None:
        """Raises Refused for values that vLLM refuses."""
        limit = self.limit
        if limit is not None and limit < 1:
            raise Refused.value(f"max_tokens must be at least 1, got {limit}.", "max_tokens", limit)
        if limit is not None and limit > max_model_len:
            raise Refused.value(
                f"max_tokens={limit} cannot be greater than max_model_len={max_model_len}. "
                "Please request fewer output tokens.",
                "max_tokens",
                limit,
            )
        if self.stream_options is not None and not self.stream:
            raise Refused.value("Stream options can only be defined when `stream=True`.", "stream_options")
        if self.n < 1:
            raise Refused.value(f"n must be at least 1, got {self.n}.", "n", self.n)


class CompletionBody(Body):
    prompt: str | list[int] | list[str] | list[list[int]] | None = None
    echo: bool = False


class Message(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: str
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """The text parts; images and audio have none."""
        if isinstance(self.content, str):
            return self.content
        return "".join(str(part.get("text", "")) for part in self.content or ())


class ChatBody(Body):
    messages: list[Message]
    max_completion_tokens: int | None = None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class TokenizeBody(BaseModel):
    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None


class DetokenizeBody(BaseModel):
    model: str | None = None
    tokens: list[int]


BodyKind = TypeVar("BodyKind", bound=BaseModel)


def read_body(kind: type[BodyKind], content_type: str, data: bytes) -> BodyKind:
    """The body as `kind`. Raises Refused in the words of vLLM's validation."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise _invalid("  Unsupported Media Type: Only 'application/json' is allowed", None)
    if not data:
        raise _invalid("  {'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}", "body")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        position = getattr(error, "pos", 0)
        reason = getattr(error, "msg", "not JSON")
        place = f"body.{position}"
        raise _invalid(
            f"  {{'type': 'json_invalid', 'loc': '{place}', 'msg': 'JSON decode error', "
            f"'input': '<dict of 0 items>', 'ctx': {{'error': '{reason}'}}}}",
            place,
        ) from None
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["body", *map(str, first["loc"])])
        detail = (
            f"  {{'type': '{first['type']}', 'loc': '{place}', 'msg': '{first['msg']}', 'input': {first['input']!r}}}"
        )
        raise _invalid(detail, place) from None


def _invalid(detail: str, place: str | None) -> Refused:
    return Refused(400, f"1 validation error:\n{detail}", place, "Bad Request")
