"""Every setting of the mock: one schema, read from flags, environment and a YAML file; the first that says wins."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

from command_settings import CommandSettings
from pydantic import Field
from pydantic_settings import SettingsConfigDict

ENV_PREFIX = "VLLM_MOCK_"
_SEVERAL = ("--served-model-name", "--api-key", "--lora-modules", "--files")
"""Flags that take several values after one name, as vLLM's do."""


class Settings(CommandSettings):
    """Base of each command's settings."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX)

    first_word: ClassVar[str]
    """The setting that may be given as the first argument, with no flag before it."""

    @classmethod
    def read(cls, arguments: Sequence[str], program: str) -> Self:
        return super().read(_spread(arguments, cls.first_word), program)


class ServeSettings(Settings):
    """Serve one model as vLLM would: its HTTP surface, its metrics and its timing, with no GPU.

    Flags that vLLM has too are spelt and mean what they do there. `vllm-mock serve MODEL ...` is the same as
    --model MODEL."""

    first_word: ClassVar[str] = "model"
    model: str = Field(
        "/models/DeepSeek-R1-Distill-Qwen-7B",  # The tutorial's.
        description="The model's folder; it is only shown, by /v1/models",
    )
    served_model_name: list[str] = Field(
        default=[], description="Names that clients may use, the first of them on metrics; without it --model"
    )
    host: str = Field("::", description="Address to listen on; :: is every address of both families")
    port: int = Field(8000, ge=0, le=65535, description="Port of the first replica")
    replicas: int = Field(1, ge=1, description="Servers in this process, on as many ports from --port on")
    preset: Literal["a10", "l20", "a100-13b", "l4-8b", "4090-3b", "b200-70b", "mi300x-405b", "h20-235b"] = Field(
        "a10",  # The tutorial's first card.
        description="The card: its step times and KV cache size. Derived from public figures, not measured",
    )
    time_scale: float = Field(1.0, gt=0, description="10: ten seconds of the engine pass in one")
    step_floor_s: float | None = Field(
        None, ge=0, description="Instead of the card's step times: every step takes as many seconds"
    )
    tokenizer: str = Field(
        "qwen",  # The tutorial's prompt counts 39 tokens with it.
        description="qwen, approximate (four bytes a token; nothing is loaded), or a folder with tokenizer.json",
    )
    seed: int = Field(0, description="Another seed, another text")
    metrics_profile: Literal["v1-current", "v1-0.10", "v1-0.8", "v0-0.6"] = Field(
        "v1-current",
        description="Version whose metric names /metrics has: vLLM 0.32, 0.10, 0.8, or 0.6 with the old engine",
    )
    kv_events_config: str | None = Field(
        None,
        description="JSON, as in vLLM: publish the blocks that enter and leave the prefix cache over ZeroMQ; "
        "replica N has the ports + N",
    )
    answer_tokens: int = Field(
        256,  # Judgement: a few paragraphs, which do not take minutes.
        ge=1,
        description="Approximate tokens of an answer to a request without a limit",
    )
    older_chat_fields: bool = Field(
        True,  # The tutorial shows them, and its clients read them.
        description="reasoning_content and tool_calls in every chat message; vLLM 0.32 has left them out",
    )
    max_model_len: int = Field(4096, ge=1, description="Tokens of prompt and answer together")
    max_num_seqs: int = Field(256, ge=1, description="Sequences that run at the same time")
    max_num_batched_tokens: int = Field(2048, ge=1, description="Tokens that one step computes")
    block_size: int = Field(16, ge=1, description="Tokens of a KV cache block")
    num_gpu_blocks_override: int | None = Field(None, ge=2, description="KV cache blocks; by default those of the card")
    enable_prefix_caching: bool = Field(True, description="Reuse KV cache blocks of prompts with the same beginning")
    enable_chunked_prefill: bool = Field(True, description="Compute long prompts in several steps")
    enable_lora: bool = Field(False, description="Serve LoRA adapters")
    max_loras: int = Field(1, ge=1, description="Adapters that run at the same time")
    max_lora_rank: int = Field(16, ge=1, description="Adapters of a higher rank are rejected")
    lora_modules: list[str] = Field(default=[], description="Adapters loaded at the start, as NAME=PATH")
    check_lora_paths: bool = Field(False, description="Reject adapters whose path does not exist")
    api_key: list[str] = Field(default=[], description="Accepted keys; /v1 requires one of them")
    max_num_queued_reqs: int | None = Field(
        None, ge=1, description="Running and waiting requests, above which new ones get 503"
    )
    shutdown_timeout: float = Field(0, ge=0, description="Seconds after SIGTERM in which running requests may finish")
    enable_request_id_headers: bool = Field(False, description="Answer with the request's X-Request-Id")
    enable_server_load_tracking: bool = Field(False, description="Count running requests in /load")
    enable_prompt_tokens_details: bool = Field(False, description="Report cached tokens in usage")
    enable_auto_tool_choice: bool = Field(False, description="Let the model choose a tool; it takes the first")
    dev_mode: bool = Field(False, description="/pause and /resume, which vLLM has with VLLM_SERVER_DEV_MODE=1")
    startup_delay: float = Field(0, ge=0, description="Fault: seconds before the port opens")
    crash_after: float | None = Field(None, ge=0, description="Fault: seconds after which the process dies")
    error_500_rate: float = Field(0, ge=0, le=1, description="Fault: share of completions answered 500")
    error_503_rate: float = Field(0, ge=0, le=1, description="Fault: share of completions answered 503")
    cut_stream_rate: float = Field(0, ge=0, le=1, description="Fault: share of streams that break halfway")
    cut_stream_after_events: int = Field(3, ge=0, description="Fault: events of a stream before it breaks")
    metrics_delay_s: float = Field(0, ge=0, description="Fault: seconds before /metrics answers")
    metrics_hang: bool = Field(False, description="Fault: /metrics never answers")
    metrics_stale: bool = Field(False, description="Fault: /metrics always shows the same page")
    stalled: bool = Field(False, description="Fault: the engine makes no steps")
    slow_factor: float = Field(1, gt=0, description="Fault: steps take this many times as long")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.served_model_name) or (self.model,)


class FitSettings(Settings):
    """Fit the speed model to a benchmark of a real server: TTFT and TPOT at several concurrencies.

    Without files: the presets beside public measurements."""

    first_word: ClassVar[str] = "files"
    files: list[Path] = Field(
        default=[],
        description="Results of `vllm bench serve --save-result`, or lists (YAML) of rows with concurrency, "
        "input_tokens, output_tokens, ttft_ms, tpot_ms",
    )


class VerifySettings(Settings):
    """Replay a folder of recordings against the mock and print the differences. Exit status 1 if there are any."""

    first_word: ClassVar[str] = "folder"
    folder: Path = Field(description="The recordings of one vLLM version")
    real: bool = Field(False, description="Replay the scheduler traces over HTTP and in real time as well")
    only: list[str] = Field(default=[], description="Parts to replay: traces, http, flags, lora, metrics, behaviour")


def _spread(arguments: Sequence[str], first: str) -> list[str]:
    """Rewrite `WORD --x a b` as `--FIRST WORD --x a --x b`."""
    flags: list[str] = []
    several: str | None = None
    for at, argument in enumerate(arguments):
        if argument.startswith("-"):
            several = argument if argument in _SEVERAL else None
            flags.append(argument)
        elif at == 0:
            flags += [f"--{first}", argument]
            several = f"--{first}" if f"--{first}" in _SEVERAL else None
        elif several is not None and flags[-1] != several:
            flags += [several, argument]
        else:
            flags.append(argument)
    return flags
