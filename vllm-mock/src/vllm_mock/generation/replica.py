"""One model server: an engine, its text and its metrics, and how requests become sequences."""

import time
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from vllm_mock.engine.driver import AsyncEngine
from vllm_mock.engine.messages import EngineRequest, Siblings
from vllm_mock.generation.errors import Refused
from vllm_mock.generation.forced_outputs import Scripts
from vllm_mock.generation.loras import Loras
from vllm_mock.generation.messages import ChatMessageParam, turns
from vllm_mock.generation.request_body import Body, ChatBody, CompletionBody
from vllm_mock.generation.sampling import check_sampling
from vllm_mock.tokens.tokenizer import ChatTemplateError, Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What vLLM's flags change at the door."""

    version: str = "0.32.0"
    root: str = ""
    """The model's folder, as /v1/models shows it."""
    seed: int = 0
    api_keys: tuple[str, ...] = ()
    max_queued_requests: int | None = None
    """Running and waiting together."""
    prompt_tokens_details: bool = False
    request_id_headers: bool = False
    server_load_tracking: bool = False
    runtime_lora: bool = False
    """Whether adapters may be loaded and unloaded while running."""
    auto_tool_choice: bool = False
    answer_tokens: int = 256
    """About as many tokens has an answer whose request names no limit."""
    dev_mode: bool = False
    """Whether there are /pause and /resume."""
    older_chat_fields: bool = True
    """`reasoning_content` and `tool_calls` in every chat message, where clients of vLLM before 0.10 look for them."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a body."""

    tokens: tuple[int, ...]
    text: str | None
    """None where the client sent token ids."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A body turned into the sequences that answer it, choice by choice."""

    id: str
    model: str
    created: int
    prompts: tuple[Prompt, ...]
    sequences: tuple[EngineRequest, ...]
    """For each prompt as many as samples were asked for."""
    samples: int

    @property
    def prompt_tokens(self) -> int:
        """Of the usage: each prompt once, however many samples it has."""
        return sum(len(prompt.tokens) for prompt in self.prompts)

    def prompt_of(self, choice: int) -> Prompt:
        return self.prompts[choice // self.samples]


@dataclass(slots=True)
class Replica:
    """What the routes of one server share."""

    models: tuple[str, ...]
    engine: AsyncEngine
    tokenizer: Tokenizer
    scripts: Scripts
    loras: Loras
    options: Options = field(default_factory=Options)
    created: int = field(default_factory=lambda: int(time.time()))
    load: int = 0
    """Completions that are being answered, as /load shows them."""
    draining: bool = False
    """No new completions: the server is about to end."""

    @property
    def max_model_len(self) -> int:
        return self.engine.engine.config.max_model_len

    @property
    def fingerprint(self) -> str:
        """As `system_fingerprint`: the version and a digest of the settings."""
        settings = f"{self.models}{self.engine.engine.config}"
        return f"vllm-{self.options.version}-{zlib.crc32(settings.encode()):08x}"

    def check_model(self, model: str | None) -> str:
        """The model to answer as. Raises Refused for one that is not served."""
        if not model:
            return self.models[0]
        if model in self.models or model in self.loras.paths:
            return model
        raise Refused.unknown_model(model, ", ".join(self.models))

    def admit(self) -> None:
        """Raises Refused when the server ends, or its queue is as long as it may be."""
        if self.draining:
            raise Refused.engine_dead()
        most = self.options.max_queued_requests
        if most is not None and self.engine.engine.live_requests >= most:
            self.engine.engine.metrics.rejected("max_num_queued_reqs")
            raise Refused.busy()

    def completion(self, body: CompletionBody, request_id: str | None) -> Asked:
        """Raises Refused."""
        model = self.check_model(body.model)
        limit = body.max_tokens
        self._check_limit("max_tokens", limit)
        prompts = [self._cut(prompt, body, limit) for prompt in self._prompts(body)]
        # `echo` with no tokens is a way to ask for the prompt's logprobs: one token is made and not shown.
        wanted = 1 if body.echo and limit == 0 else limit
        return self._asked(body, model, f"cmpl-{_id(body, request_id)}", prompts, wanted, limit)

    def chat(self, body: ChatBody, request_id: str | None) -> Asked:
        """Raises Refused."""
        model = self.check_model(body.model)
        self._check_limit(body.limit_name, body.limit)
        text = self.chat_text(body.messages)
        prompt = self._cut(Prompt(tuple(self.tokenizer.encode(text)), text), body, body.limit)
        return self._asked(body, model, f"chatcmpl-{_id(body, request_id)}", [prompt], body.limit, body.limit)

    def chat_text(self, messages: Sequence[ChatMessageParam]) -> str:
        """The conversation in the model's template. Raises Refused."""
        if not messages:
            raise Refused(400, "Cannot apply chat template to an empty conversation. Provide at least one message.")
        try:
            return self.tokenizer.chat_prompt(turns(messages))
        except ChatTemplateError as error:
            raise Refused(400, str(error)) from None

    def _check_limit(self, name: str, limit: int | None) -> None:
        most = self.max_model_len
        if limit is not None and limit > most:
            message = f"{name}={limit} cannot be greater than max_model_len={most}. Please request fewer output tokens."
            raise Refused.value(message, name, limit)

    def _prompts(self, body: CompletionBody) -> list[Prompt]:
        prompt = body.prompt
        if not prompt:
            raise Refused(400, "You must pass at least one prompt")
        if isinstance(prompt, str):
            return [self._text(prompt)]
        if isinstance(prompt[0], int):
            return [self._ids([token for token in prompt if isinstance(token, int)])]
        return [
            self._text(each) if isinstance(each, str) else self._ids(each)
            for each in prompt
            if not isinstance(each, int)
        ]

    def _text(self, text: str) -> Prompt:
        return Prompt(tuple(self.tokenizer.encode(text)), text)

    def _ids(self, tokens: list[int]) -> Prompt:
        if not tokens:
            raise Refused(400, "The decoder prompt cannot be empty")
        highest = max(tokens)
        if highest >= self.tokenizer.vocabulary:
            raise Refused(400, f"Token id {highest} is out of vocabulary")
        return Prompt(tuple(tokens), None)

    def _cut(self, prompt: Prompt, body: Body, limit: int | None) -> Prompt:
        """The end of a prompt, where that was asked for. Raises Refused for one that is too long."""
        keep = body.truncate_prompt_tokens
        tokens = prompt.tokens
        if keep is not None:
            keep = self.max_model_len - (limit or 0) if keep < 0 else keep
            tokens = tokens[max(0, len(tokens) - keep) :]
        most = self.max_model_len
        if len(tokens) > most:
            # Text is tokenized no further than to find it too long.
            count = len(tokens) if prompt.text is None else most + 1
            contains = count if prompt.text is None else f"at least {count}"
            message = (
                f"This model's maximum context length is {most} tokens. However, your prompt contains {contains} input "
                "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the "
                "input prompt."
            )
            raise Refused.value(message, "input_tokens", count)
        return Prompt(tokens, prompt.text)

    def _asked(
        self, body: Body, model: str, answer_id: str, prompts: list[Prompt], wanted: int | None, named: int | None
    ) -> Asked:
        limits = [self._room(prompt, wanted) for prompt in prompts]
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
                self._end_by_itself(sequence)
        return Asked(answer_id, model, int(time.time()), tuple(prompts), tuple(sequences), body.samples)

    def _room(self, prompt: Prompt, wanted: int | None) -> int:
        room = self.max_model_len - len(prompt.tokens)
        return room if wanted is None else min(wanted, room)

    def _end_by_itself(self, sequence: EngineRequest) -> None:
        """A model ends its answer; half to one and a half times `answer_tokens` is as good as any length."""
        usual = self.options.answer_tokens
        length = min(max(1, usual // 2 + sequence.seed % max(1, usual)), sequence.max_tokens)
        words = [self.tokenizer.token(sequence, position) for position in range(length)]
        self.scripts.lay_down(sequence.request_id, words)

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
        said = 0 if body.greedy else (body.seed or 0) * 7919 + sample
        return EngineRequest(
            request_id=sequence_id,
            prompt=prompt,
            max_tokens=limit,
            min_tokens=body.min_tokens,
            stop_token_ids=frozenset(stop_ids),
            lora=model if model in self.loras.paths else None,
            cache_salt=body.cache_salt,
            prompt_logprobs=body.wanted_prompt_logprobs is not None,
            siblings=siblings,
            seed=zlib.crc32(repr(prompt).encode()) + (self.options.seed << 32) + said,
        )


def _id(body: Body, header: str | None) -> str:
    return header or body.request_id or _new_id()


def _new_id() -> str:
    return uuid.uuid4().hex[:16]
