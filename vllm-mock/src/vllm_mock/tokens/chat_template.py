"""The chat template of Qwen2.5, for tokenizers without one of their own."""

from collections.abc import Sequence

from vllm_mock.tokens.tokenizer import Turn

DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
"""Qwen2.5's default for a conversation without a system message."""


def qwen_chat_prompt(turns: Sequence[Turn]) -> str:
    """The conversation as a prompt that ends where the assistant's answer begins."""
    with_system = list(turns)
    if not with_system or with_system[0].role != "system":
        with_system.insert(0, Turn("system", DEFAULT_SYSTEM))
    text = "".join(f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in with_system)
    return f"{text}<|im_start|>assistant\n"
