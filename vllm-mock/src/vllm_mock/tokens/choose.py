"""Chooses the tokenizer by its setting."""

from pathlib import Path

from vllm_mock.tokens.approximate import ApproximateTokenizer
from vllm_mock.tokens.folder import FolderTokenizer
from vllm_mock.tokens.qwen import QwenTokenizer
from vllm_mock.tokens.tokenizer import Tokenizer


def choose_tokenizer(name: str) -> Tokenizer:
    """The tokenizer `qwen`, `approximate`, or that of a folder with tokenizer.json. Raises InvalidTokenizer."""
    if name == "qwen":
        return QwenTokenizer()
    if name == "approximate":
        return ApproximateTokenizer()
    return FolderTokenizer(Path(name))
