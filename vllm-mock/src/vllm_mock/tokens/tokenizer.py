"""What a tokenizer is, and the chat template of Qwen2.5."""

from collections.abc import Sequence
from typing import Protocol

from vllm_mock.engine.messages import EngineRequest

DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
"""Qwen2.5's template puts this before a conversation that brings no system message."""


class Tokenizer(Protocol):
    """Text to token ids and back; also decides what the model says."""

    vocabulary: int
    """Ids are below this."""
    end_of_sequence: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def token(self, request: EngineRequest, position: int) -> int:
        """See `engine.messages.Sampler`."""
        ...


def chat_prompt(messages: Sequence[tuple[str, str]]) -> str:
    """(role, content) pairs in Qwen2.5's template, ready for the assistant to speak."""
    turns = list(messages)
    if not turns or turns[0][0] != "system":
        turns.insert(0, ("system", DEFAULT_SYSTEM))
    told = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return f"{told}<|im_start|>assistant\n"


def draw(seed: int, position: int, count: int) -> int:
    """A number below `count` for each position of a text, equal for equal arguments (a step of splitmix64)."""
    mixed = (seed + (position + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 27)) % count
