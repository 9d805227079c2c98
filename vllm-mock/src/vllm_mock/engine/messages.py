"""What goes into an engine and what comes out of it. No clock, no I/O: every time is a value in seconds."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import msgspec


class FinishReason(StrEnum):
    """Label values of `vllm:request_success_total`."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    REPETITION = "repetition"


class Siblings:
    """The samples of one prompt (`n` > 1): `request_params_n` and `request_max_num_generation_tokens` are observed once
    for all of them, at the end of the last."""

    __slots__ = ("_left", "count", "longest")

    def __init__(self, count: int) -> None:
        self.count = count
        self._left = count
        self.longest = 0
        """Most tokens that one of those that have ended generated."""

    def ended(self, generated: int) -> bool:
        """One has; whether it was the last."""
        self.longest = max(self.longest, generated)
        self._left -= 1
        return not self._left


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One sequence to generate. A body with `n=2` or three prompts is as many of these: vLLM counts each of them
    (vllm-mock/recordings/0.32.0/NOTES.md)."""

    request_id: str
    prompt: tuple[int, ...]
    """Token ids; already cut and checked against `max_model_len` by the front end."""
    max_tokens: int
    """At least 1, already cut to `max_model_len - len(prompt)`; what `request_params_max_tokens` observes."""
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    """Token ids that end the sequence, the end-of-sequence token among them unless `ignore_eos` was asked for."""
    lora: str | None = None
    cache_salt: str | None = None
    prompt_logprobs: bool = False
    """Such a request does no prefix look-up (vllm-mock/recordings/0.32.0/NOTES.md)."""
    siblings: Siblings | None = None
    """Shared by the samples of one prompt; None where there is one."""
    seed: int = 0


class NewTokens(msgspec.Struct, frozen=True, gc=False):
    """What one step gave to one request."""

    request_id: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    stop_token_id: int | None = None
    cached_tokens: int = 0
    """Prompt tokens found in the prefix cache at first admission."""


class Sampler(Protocol):
    """Decides the text. Deterministic: equal arguments give equal tokens."""

    def token(self, request: EngineRequest, position: int) -> int:
        """The id of output token `position` (0 is the first) of `request`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The scheduler's settings, by vLLM's own names and defaults (see `vllm serve --help`)."""

    max_model_len: int = 4096
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    block_size: int = 16
    num_gpu_blocks: int = 4837
    """With the null block, as `vllm:cache_config_info` shows it."""
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    enable_lora: bool = False
    max_loras: int = 1
    extra_cache_config: dict[str, str] = field(default_factory=dict[str, str])
    """Further labels of `vllm:cache_config_info`."""
