"""Request bodies, parsed as vLLM parses them: unknown fields are ignored, and numbers may be strings."""

from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from vllm_mock.generation.errors import ApiError
from vllm_mock.generation.messages import ChatMessageParam

TokenId: TypeAlias = Annotated[int, Field(ge=0)]
JsonObject: TypeAlias = dict[str, Any]
COMPLETION_TOKENS = 16
"""Default `max_tokens` of /v1/completions."""
GREEDY_BELOW = 1e-5
"""Temperatures below this value mean greedy sampling."""


class StreamOptions(BaseModel):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class JsonSchema(BaseModel):
    name: str
    json_schema: JsonObject | None = Field(None, alias="schema")


class ResponseFormat(BaseModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(BaseModel):
    """vLLM's own output constraints. At most one field is set."""

    json_schema: str | JsonObject | None = Field(None, alias="json")
    choice: list[str] | None = None
    json_object: bool | None = None


class Body(BaseModel):
    """Fields of both kinds of completion, with vLLM's defaults."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    frequency_penalty: float | None = None
    n: int | None = 1
    presence_penalty: float | None = None
    response_format: ResponseFormat | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = []
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    prompt_logprobs: int | None = None
    structured_outputs: StructuredOutputs | None = None
    request_id: str | None = None
    return_token_ids: bool | None = None
    cache_salt: str | None = None

    @property
    def samples(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def greedy(self) -> bool:
        return self.temperature is not None and self.temperature < GREEDY_BELOW

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return (
            self.include_usage and self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)
        )

    @property
    def prompt_logprob_count(self) -> int | None:
        """Log probabilities to return for each prompt token. None means none."""
        return self.prompt_logprobs

    @property
    def logprob_count(self) -> int | None:
        """Log probabilities to return for each generated token. None means none."""
        return None


def _check_common(data: JsonObject) -> None:
    """Raises ApiError for what vLLM rejects before it validates types, in vLLM's order."""
    if data.get("stream_options") and not data.get("stream"):
        raise ApiError.value("Stream options can only be defined when `stream=True`.", "stream_options")
    form = data.get("response_format")
    if isinstance(form, dict) and form.get("type") == "json_schema" and form.get("json_schema") is None:  # pyright: ignore[reportUnknownMemberType]
        message = "When response_format type is 'json_schema', the 'json_schema' field must be provided."
        raise ApiError.value(message, "response_format")
    salt = data.get("cache_salt")
    if salt is not None and (not isinstance(salt, str) or not salt):
        raise ApiError.value("Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt")


def _check_count(data: JsonObject, field: str) -> float | None:
    """Checks the number of log probabilities in `field`. Raises ApiError."""
    value = data.get(field)
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise ApiError.value(f"`{field}` must be an integer.", field, value)
    if value < 0 and value != -1:
        raise ApiError.value(f"`{field}` must be a positive value or -1.", field, value)
    return value


def _check_prompt_logprobs(data: JsonObject) -> None:
    count = _check_count(data, "prompt_logprobs")
    if count and data.get("stream"):
        raise ApiError.value("`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs")


class CompletionBody(Body):
    prompt: list[TokenId] | list[list[TokenId]] | str | list[str] | None = None
    echo: bool | None = False
    logprobs: int | None = None
    max_tokens: int | None = COMPLETION_TOKENS

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        if isinstance(data, dict):
            fields = cast(JsonObject, data)
            if fields.get("prompt") is None or fields["prompt"] == "":
                raise ApiError.value("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
            _check_prompt_logprobs(fields)
            _check_count(fields, "logprobs")
            _check_common(fields)
        return data  # pyright: ignore[reportUnknownVariableType]

    @property
    def prompt_logprob_count(self) -> int | None:
        return self.logprobs if self.prompt_logprobs is None and self.echo else self.prompt_logprobs

    @property
    def logprob_count(self) -> int | None:
        return self.logprobs


class Function(BaseModel):
    name: str
    description: str | None = None
    parameters: JsonObject | None = None


class Tool(BaseModel):
    type: Literal["function"] = "function"
    function: Function


class NamedFunction(BaseModel):
    name: str


class NamedToolChoice(BaseModel):
    function: NamedFunction
    type: Literal["function"] = "function"


class ChatBody(Body):
    messages: list[ChatMessageParam]
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none"] | Literal["auto"] | Literal["required"] | NamedToolChoice | None = "none"
    echo: bool = False

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        if isinstance(data, dict):
            fields = cast(JsonObject, data)
            _check_tool_choice(fields)
            _check_prompt_logprobs(fields)
            count = _check_count(fields, "top_logprobs")
            if count and not fields.get("logprobs"):
                raise ApiError.value("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
            _check_common(fields)
            if fields.get("tools") and "tool_choice" not in fields:
                return {**fields, "tool_choice": "auto"}
        return data  # pyright: ignore[reportUnknownVariableType]

    @property
    def limit_name(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def prompt_logprob_count(self) -> int | None:
        return self.top_logprobs if self.prompt_logprobs is None and self.echo else self.prompt_logprobs

    @property
    def logprob_count(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


def _check_tool_choice(data: JsonObject) -> None:
    """Raises ApiError."""
    tools, choice = data.get("tools"), data.get("tool_choice")
    if tools == []:
        message = "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely."
        raise ApiError.value(message, "tools")
    if choice not in (None, "none") and tools is None:
        raise ApiError.value("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if choice is not None and choice not in ("none", "auto", "required") and not isinstance(choice, dict):
        message = (
            f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or "required" are supported.'
        )
        raise ApiError.value(message, "tool_choice")


class TokenizePrompt(BaseModel):
    model: str | None = None
    prompt: str
    return_token_strs: bool | None = False


class TokenizeChat(BaseModel):
    model: str | None = None
    messages: list[ChatMessageParam]
    return_token_strs: bool | None = False


class TokenizeBody(RootModel[TokenizePrompt | TokenizeChat]):
    """Either form of a /tokenize request. A validation error names the missing fields of both."""


class DetokenizeBody(BaseModel):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0, le=2**63 - 1)]]


class LoadLoraBody(BaseModel):
    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadLoraBody(BaseModel):
    lora_name: str
