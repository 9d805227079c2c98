"""The chat template of Qwen2.5, for tokenizers that bring none of their own."""

from collections.abc import Sequence

from vllm_mock.tokens.tokenizer import Turn

DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
"""Qwen2.5's template puts this before a conversation that brings no system message."""


def qwen_chat_prompt(turns: Sequence[Turn]) -> str:
    """The conversation, ready for the assistant to speak."""
    told = list(turns)
    if not told or told[0].role != "system":
        told.insert(0, Turn("system", DEFAULT_SYSTEM))
    text = "".join(f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in told)
    return f"{text}<|im_start|>assistant\n"
