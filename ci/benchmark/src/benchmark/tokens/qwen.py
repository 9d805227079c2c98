"""The vocabulary of the Qwen family (DeepSeek-R1-Distill-Qwen included), from a file of the package dashscope."""

from importlib.util import find_spec
from pathlib import Path

import tiktoken
from tiktoken.load import load_tiktoken_bpe

from benchmark.tokens.words import WORD

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pattern by which Qwen2.5's tokenizer.json splits text before merging."""


class QwenVocabularyMissing(Exception):
    """The package dashscope is not installed."""


class QwenTokenizer:
    """The Qwen vocabulary: 151,643 tokens without the special ones."""

    def __init__(self) -> None:
        package = find_spec("dashscope")
        if package is None or package.origin is None:
            raise QwenVocabularyMissing
        ranks = load_tiktoken_bpe(str(Path(package.origin).parent / "resources" / "qwen.tiktoken"))
        self._encoding = tiktoken.Encoding("qwen", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={})
        self.name = f"Qwen ({len(ranks):,} tokens, from the package dashscope)"
        texts = (token.decode("ascii", "replace") for token in ranks)
        self.words = tuple(text for text in texts if WORD.fullmatch(text))

    def count(self, text: str) -> int:
        return len(self._encoding.encode_ordinary(text))
