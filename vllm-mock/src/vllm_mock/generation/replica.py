"""One model server: its engine, tokenizer and adapters. Turns requests into sequences."""

import time
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from vllm_mock.engine.driver import AsyncEngine
from vllm_mock.engine.messages import EngineRequest, Siblings
from vllm_mock.generation.errors import ApiError
from vllm_mock.generation.forced_outputs import ForcedOutputs
from vllm_mock.generation.loras import Loras
from vllm_mock.generation.messages import ChatMessageParam, turns
from vllm_mock.generation.request_body import Body, ChatBody, CompletionBody
from vllm_mock.generation.sampling import check_sampling
from vllm_mock.tokens.tokenizer import ChatTemplateError, Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the API server, from vLLM's flags and the mock's own."""

    version: str = "0.32.0"
    root: str = ""
    """The model's directory, as /v1/models shows it."""
    seed: int = 0
    api_keys: tuple[str, ...] = ()
    max_queued_requests: int | None = None
    """Limit on running and waiting requests together. None means no limit."""
    prompt_tokens_details: bool = False
    request_id_headers: bool = False
    server_load_tracking: bool = False
    runtime_lora: bool = False
    """Whether adapters can be loaded and unloaded at run time."""
    auto_tool_choice: bool = False
    answer_tokens: int = 256
    """Approximate length in tokens of an answer whose request has no limit."""
    dev_mode: bool = False
    """Whether /pause and /resume exist."""
    older_chat_fields: bool = True
    """Whether every chat message has `reasoning_content` and `tool_calls`, which clients of vLLM before 0.10 read."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a request."""

    tokens: tuple[int, ...]
    text: str | None
    """None if the client sent token ids."""


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A validated request and its sequences, choice by choice."""

    id: str
    model: str
    created: int
    prompts: tuple[Prompt, ...]
    sequences: tuple[EngineRequest, ...]
    """For each prompt, `samples` sequences."""
    samples: int

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of the usage: each prompt counts once, whatever its number of samples."""
        return sum(len(prompt.tokens) for prompt in self.prompts)

    def prompt_of(self, choice: int) -> Prompt:
        return self.prompts[choice // self.samples]


@dataclass(slots=True)
class Replica:
    """A simulated model server, without its HTTP API."""

    models: tuple[str, ...]
    engine: AsyncEngine
    tokenizer: Tokenizer
    forced_outputs: ForcedOutputs
    loras: Loras
    options: Options = field(default_factory=Options)
    created: int = field(default_factory=lambda: int(time.time()))
    load: int = 0
    """Completions in progress, as /load shows them."""
    draining: bool = False
    """Whether new completions are rejected because the server is shutting down."""

    @property
    def max_model_len(self) -> int:
        return self.engine.engine.config.max_model_len

    @property
    def fingerprint(self) -> str:
        """The `system_fingerprint`: the version and a digest of the settings."""
        settings = f"{self.models}{self.engine.engine.config}"
        return f"vllm-{self.options.version}-{zlib.crc32(settings.encode()):08x}"

    def check_model(self, model: str | None) -> str:
        """The name of the model to use. Raises ApiError if `model` is not served."""
        if not model:
            return self.models[0]
        if model in self.models or model in self.loras.paths:
            return model
        raise ApiError.unknown_model(model, ", ".join(self.models))

    def admit(self) -> None:
        """Raises ApiError if the server is shutting down or its queue is full."""
        if self.draining:
            raise ApiError.engine_dead()
        limit = self.options.max_queued_requests
        if limit is not None and self.engine.engine.live_requests >= limit:
            self.engine.engine.metrics.rejected("max_num_queued_reqs")
            raise ApiError.busy()

    def completion(self, body: CompletionBody, request_id: str | None) -> PreparedRequest:
        """Prepares a completion. Raises ApiError."""
        model = self.check_model(body.model)
        limit = body.max_tokens
        self._check_limit("max_tokens", limit)
        prompts = [self._cut(prompt, body, limit) for prompt in self._prompts(body)]
        # `echo` with max_tokens 0 requests the prompt's logprobs: one token is generated and not shown.
        max_tokens = 1 if body.echo and limit == 0 else limit
        return self._prepare(body, model, f"cmpl-{_id(body, request_id)}", prompts, max_tokens, limit)

    def chat(self, body: ChatBody, request_id: str | None) -> PreparedRequest:
        """Prepares a chat completion. Raises ApiError."""
        model = self.check_model(body.model)
        self._check_limit(body.limit_name, body.limit)
        text = self.chat_text(body.messages)
        prompt = self._cut(Prompt(tuple(self.tokenizer.encode(text)), text), body, body.limit)
        return self._prepare(body, model, f"chatcmpl-{_id(body, request_id)}", [prompt], body.limit, body.limit)

    def chat_text(self, messages: Sequence[ChatMessageParam]) -> str:
        """The conversation formatted by the model's chat template. Raises ApiError."""
        if not messages:
            raise ApiError(400, "Cannot apply chat template to an empty conversation. Provide at least one message.")
        try:
            return self.tokenizer.chat_prompt(turns(messages))
        except ChatTemplateError as error:
            raise ApiError(400, str(error)) from None

    def _check_limit(self, name: str, limit: int | None) -> None:
        longest = self.max_model_len
        if limit is not None and limit > longest:
            message = (
                f"{name}={limit} cannot be greater than max_model_len={longest}. Please request fewer output tokens."
            )
            raise ApiError.value(message, name, limit)

    def _prompts(self, body: CompletionBody) -> list[Prompt]:
        prompt = body.prompt
        if not prompt:
            raise ApiError(400, "You must pass at least one prompt")
        if isinstance(prompt, str):
            return [self._text(prompt)]
        if isinstance(prompt[0], int):
            return [self._ids([token for token in prompt if isinstance(token, int)])]
        return [
            self._text(item) if isinstance(item, str) else self._ids(item)
            for item in prompt
            if not isinstance(item, int)
        ]

    def _text(self, text: str) -> Prompt:
        return Prompt(tuple(self.tokenizer.encode(text)), text)

    def _ids(self, tokens: list[int]) -> Prompt:
        if not tokens:
            raise ApiError(400, "The decoder prompt cannot be empty")
        highest = max(tokens)
        if highest >= self.tokenizer.vocabulary:
            raise ApiError(400, f"Token id {highest} is out of vocabulary")
        return Prompt(tuple(tokens), None)

    def _cut(self, prompt: Prompt, body: Body, limit: int | None) -> Prompt:
        """Truncates a prompt to its last tokens if the request says so. Raises ApiError if it is too long."""
        keep = body.truncate_prompt_tokens
        tokens = prompt.tokens
        if keep is not None:
            keep = self.max_model_len - (limit or 0) if keep < 0 else keep
            tokens = tokens[max(0, len(tokens) - keep) :]
        longest = self.max_model_len
        if len(tokens) > longest:
            # vLLM stops tokenizing text once it exceeds the limit.
            count = len(tokens) if prompt.text is None else longest + 1
            contains = count if prompt.text is None else f"at least {count}"
            message = (
                f"This model's maximum context length is {longest} tokens. However, your prompt contains {contains} "
                "input tokens, which exceeds this limit even without any output tokens. "
                "Please reduce the length of the input prompt."
            )
            raise ApiError.value(message, "input_tokens", count)
        return Prompt(tokens, prompt.text)

    def _prepare(
        self, body: Body, model: str, answer_id: str, prompts: list[Prompt], max_tokens: int | None, named: int | None
    ) -> PreparedRequest:
        limits = [self._max_tokens(prompt, max_tokens) for prompt in prompts]
        for limit in limits:
            check_sampling(body, limit)
        self.admit()
        sequences = [
            self._sequence(
                body, model, f"{answer_id}-{number}-{sample}-{_new_id()}", prompt.tokens, limit, sample, siblings
            )
            for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
            for siblings in [Siblings(body.samples) if body.samples > 1 else None]
            for sample in range(body.samples)
        ]
        if named is None and not body.ignore_eos:
            for sequence in sequences:
                self._force_natural_end(sequence)
        return PreparedRequest(answer_id, model, int(time.time()), tuple(prompts), tuple(sequences), body.samples)

    def _max_tokens(self, prompt: Prompt, max_tokens: int | None) -> int:
        remaining = self.max_model_len - len(prompt.tokens)
        return remaining if max_tokens is None else min(max_tokens, remaining)

    def _force_natural_end(self, sequence: EngineRequest) -> None:
        """Ends the output after 0.5 to 1.5 times `answer_tokens`, as a model ends an answer. Judgement."""
        usual = self.options.answer_tokens
        length = min(max(1, usual // 2 + sequence.seed % max(1, usual)), sequence.max_tokens)
        words = [self.tokenizer.token(sequence, position) for position in range(length)]
        self.forced_outputs.set(sequence.request_id, words)

    def _sequence(
        self,
        body: Body,
        model: str,
        sequence_id: str,
        prompt: tuple[int, ...],
        limit: int,
        sample: int,
        siblings: Siblings | None,
    ) -> EngineRequest:
        stop_ids = set(body.stop_token_ids or ())
        if not body.ignore_eos:
            stop_ids.add(self.tokenizer.end_of_sequence)
        sample_seed = 0 if body.greedy else (body.seed or 0) * 7919 + sample
        return EngineRequest(
            request_id=sequence_id,
            prompt=prompt,
            max_tokens=limit,
            min_tokens=body.min_tokens,
            stop_token_ids=frozenset(stop_ids),
            lora=model if model in self.loras.paths else None,
            cache_salt=body.cache_salt,
            prompt_logprobs=body.prompt_logprob_count is not None,
            siblings=siblings,
            seed=zlib.crc32(repr(prompt).encode()) + (self.options.seed << 32) + sample_seed,
        )


def _id(body: Body, header: str | None) -> str:
    return header or body.request_id or _new_id()


def _new_id() -> str:
    return uuid.uuid4().hex[:16]
