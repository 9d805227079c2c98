"""The vocabulary of a model folder: its tokenizer.json."""

from pathlib import Path

from tokenizers import Tokenizer

from benchmark.tokens.words import WORD

MAX_WORDS = 20_000
"""Enough for prompts without common parts. Checking a vocabulary of 150,000 words would take seconds. Judgement."""


class HuggingFaceTokenizer:
    """A tokenizer from a tokenizer.json. Raises ValueError if it cannot be read, or if no word in it is one token."""

    def __init__(self, file: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # noqa: BLE001 -- the binding raises plain Exception
            raise ValueError(f"cannot be read: {error}") from None
        self.name = f"{file} ({self._tokenizer.get_vocab_size():,} tokens)"
        self.words = self._one_token_words()

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def _one_token_words(self) -> tuple[str, ...]:
        decoded = self._tokenizer.decode_batch([[token] for token in range(self._tokenizer.get_vocab_size())])
        candidates = sorted({text for text in decoded if WORD.fullmatch(text)}) or sorted(
            # Some vocabularies decode a word without its leading blank.
            {f" {text}" for text in decoded if WORD.fullmatch(f" {text}")}
        )
        some = candidates[:: max(1, len(candidates) // MAX_WORDS)]
        twice = self._tokenizer.encode_batch([text * 2 for text in some], add_special_tokens=False)
        words = tuple(text for text, encoded in zip(some, twice, strict=True) if len(encoded) == 2)
        if not words:
            raise ValueError("no word in it is one token: this client cannot make prompts of exact length with it")
        return words
