"""One model server: an engine, its text and its metrics, and how requests become sequences."""

import itertools
import time
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from vllm_mock.engine.driver import AsyncEngine
from vllm_mock.engine.messages import EngineRequest
from vllm_mock.server.bodies import Body, ChatBody, CompletionBody, Message
from vllm_mock.server.errors import Refused
from vllm_mock.tokens.tokenizer import Tokenizer, chat_prompt

DEFAULT_COMPLETION_TOKENS = 16
"""What /v1/completions generates when no limit is named."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A body turned into the sequences that answer it, choice by choice."""

    id: str
    model: str
    created: int
    sequences: tuple[EngineRequest, ...]
    stops: tuple[str, ...]
    echo: tuple[str, ...]
    """What each choice's text begins with."""

    @property
    def prompt_tokens(self) -> int:
        """Of the usage: each prompt once, however many samples it has."""
        return sum(len(prompt) for prompt, _ in itertools.groupby(each.prompt for each in self.sequences))


@dataclass(slots=True)
class Replica:
    """What the routes of one server share."""

    models: tuple[str, ...]
    engine: AsyncEngine
    tokenizer: Tokenizer
    seed: int = 0
    max_queued_requests: int | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def max_model_len(self) -> int:
        return self.engine.engine.config.max_model_len

    def check_model(self, model: str | None) -> str:
        """The model to answer as. Raises Refused for one that is not served."""
        if model is None or model in self.models:
            return model or self.models[0]
        aliases = ", ".join(self.models)
        raise Refused(404, f"The model `{model}` does not exist. Valid aliases: {aliases}.", "model", "NotFoundError")

    def admit(self) -> None:
        """Raises Refused when the queue is as long as it may be."""
        most = self.max_queued_requests
        if most is not None and self.engine.engine.live_requests >= most:
            self.engine.engine.metrics.rejected("max_num_queued_reqs")
            raise Refused(
                503,
                f"The server is overloaded: {most} requests are queued. Try again later.",
                None,
                "ServiceUnavailable",
            )

    def completion(self, body: CompletionBody, request_id: str | None) -> Asked:
        prompts = self._prompts(body)
        echo = [self.tokenizer.decode(ids) if body.echo else "" for ids in prompts]
        return self._asked(body, f"cmpl-{request_id or _new_id()}", prompts, DEFAULT_COMPLETION_TOKENS, echo)

    def chat(self, body: ChatBody, request_id: str | None) -> Asked:
        if not body.messages:
            raise Refused.value("messages must not be empty.", "messages")
        prompt = self.chat_tokens(body.messages)
        return self._asked(body, f"chatcmpl-{request_id or _new_id()}", [prompt], None, [""])

    def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        return self.tokenizer.encode(chat_prompt([(each.role, each.text) for each in messages]))

    def _prompts(self, body: CompletionBody) -> list[list[int]]:
        prompt = body.prompt
        if not prompt:
            raise Refused.value("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
        if isinstance(prompt, str):
            return [self.tokenizer.encode(prompt)]
        if isinstance(prompt[0], int):
            return [[token for token in prompt if isinstance(token, int)]]
        return [
            self.tokenizer.encode(each) if isinstance(each, str) else each
            for each in prompt
            if not isinstance(each, int)
        ]

    def _asked(
        self, body: Body, answer_id: str, prompts: list[list[int]], default_tokens: int | None, echo: list[str]
    ) -> Asked:
        model = self.check_model(body.model)
        body.check(self.max_model_len)
        self.admit()
        sequences = [
            self._sequence(body, f"{answer_id}-{index}-{sample}", prompt, default_tokens, sample)
            for index, prompt in enumerate(prompts)
            for sample in range(body.n)
        ]
        told = tuple(text for text in echo for _ in range(body.n))
        return Asked(answer_id, model, int(time.time()), tuple(sequences), body.stops, told)

    def _sequence(
        self, body: Body, sequence_id: str, prompt: list[int], default_tokens: int | None, sample: int
    ) -> EngineRequest:
        room = self.max_model_len - len(prompt)
        if room < 1:
            raise Refused.value(
                f"This model's maximum context length is {self.max_model_len} tokens. However, your prompt contains "
                f"{len(prompt)} input tokens, which exceeds this limit even without any output tokens. Please reduce "
                "the length of the input prompt.",
                "input_tokens",
                len(prompt),
            )
        limit = body.limit if body.limit is not None else default_tokens
        stop_ids = set(body.stop_token_ids)
        if not body.ignore_eos:
            stop_ids.add(self.tokenizer.end_of_sequence)
        text_seed = zlib.crc32(repr(prompt).encode()) + (self.seed << 32) + (body.seed or 0) * 7919 + sample
        return EngineRequest(
            request_id=sequence_id,
            prompt=tuple(prompt),
            max_tokens=min(limit, room) if limit is not None else room,
            min_tokens=body.min_tokens,
            stop_token_ids=frozenset(stop_ids),
            cache_salt=body.cache_salt,
            params_n=body.n if sample == 0 else None,
            params_max_tokens=limit if sample == 0 else None,
            seed=text_seed,
        )


def _new_id() -> str:
    return uuid.uuid4().hex[:16]
