"""What a tokenizer is to this client, and how one is found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from benchmark.tokens.approximate import ApproximateTokenizer
from benchmark.tokens.huggingface import HuggingFaceTokenizer
from benchmark.tokens.qwen import QwenTokenizer, QwenVocabularyMissing


class Tokenizer(Protocol):
    """Text to tokens, and words to make text of."""

    @property
    def name(self) -> str:
        """For people: which vocabulary this is, and where it came from."""
        ...

    @property
    def words(self) -> Sequence[str]:
        """Texts that are one token each and stay so side by side: n of them joined are n tokens. Never empty."""
        ...

    def count(self, text: str) -> int:
        """Tokens of a text, without those that the server adds around it."""
        ...


class NoSuchTokenizer(Exception):
    """A folder was named as a tokenizer's, and holds none that can be read."""


def find_tokenizer(model: str, tokenizer: str | None) -> Tokenizer:
    """The model's own vocabulary where a tokenizer.json lies in the folder `tokenizer` or `model`, else Qwen's, else an
    approximation. Raises NoSuchTokenizer when `tokenizer` is given and holds none."""
    for folder in (tokenizer, model):
        file = Path(folder or "") / "tokenizer.json"
        if folder and file.is_file():
            try:
                return HuggingFaceTokenizer(file)
            except ValueError as error:
                raise NoSuchTokenizer(f"{file}: {error}") from None
        if folder is not None and folder == tokenizer:
            raise NoSuchTokenizer(f"--tokenizer {tokenizer}: no tokenizer.json there")
    try:
        return QwenTokenizer()
    except QwenVocabularyMissing:
        return ApproximateTokenizer()
