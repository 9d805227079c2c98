"""The tokenizer that a setting names."""

from pathlib import Path

from vllm_mock.tokens.approximate import ApproximateTokenizer
from vllm_mock.tokens.folder import FolderTokenizer
from vllm_mock.tokens.qwen import QwenTokenizer
from vllm_mock.tokens.tokenizer import Tokenizer


def choose_tokenizer(name: str) -> Tokenizer:
    """`qwen`, `approximate`, or a folder with tokenizer.json. Raises InvalidTokenizer."""
    if name == "qwen":
        return QwenTokenizer()
    if name == "approximate":
        return ApproximateTokenizer()
    return FolderTokenizer(Path(name))
