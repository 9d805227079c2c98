"""The interface of tokenizers, and the choice of one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from benchmark.tokens.approximate import ApproximateTokenizer
from benchmark.tokens.huggingface import HuggingFaceTokenizer
from benchmark.tokens.qwen import QwenTokenizer, QwenVocabularyMissing


class Tokenizer(Protocol):
    """Counts tokens, and offers words to compose text of exact length."""

    @property
    def name(self) -> str:
        """The vocabulary and its origin, as printed."""
        ...

    @property
    def words(self) -> Sequence[str]:
        """Texts of one token each: any n of them joined are n tokens. Never empty."""
        ...

    def count(self, text: str) -> int:
        """Tokens of a text, without special tokens that the server adds."""
        ...


class NoSuchTokenizer(Exception):
    """The configured folder has no readable tokenizer."""


def find_tokenizer(model: str, tokenizer: str | None) -> Tokenizer:
    """Chooses a tokenizer: a tokenizer.json in the folder `tokenizer` or `model`, else Qwen's, else an approximation.

    Raises NoSuchTokenizer if a tokenizer.json is unreadable, or if `tokenizer` is given and has none."""
    for folder in (tokenizer, model):
        file = Path(folder or "") / "tokenizer.json"
        if folder and file.is_file():
            try:
                return HuggingFaceTokenizer(file)
            except ValueError as error:
                raise NoSuchTokenizer(f"{file}: {error}") from None
        if folder is not None and folder == tokenizer:
            raise NoSuchTokenizer(f"--tokenizer {tokenizer}: no tokenizer.json in this folder")
    try:
        return QwenTokenizer()
    except QwenVocabularyMissing:
        return ApproximateTokenizer()
