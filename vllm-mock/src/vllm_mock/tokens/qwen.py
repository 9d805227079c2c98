"""The Qwen tokenizer, with the vocabulary file of the package dashscope."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import tiktoken
from tiktoken.load import load_tiktoken_bpe

from vllm_mock.engine.messages import EngineRequest
from vllm_mock.tokens.chat_template import qwen_chat_prompt
from vllm_mock.tokens.english import SENTENCE
from vllm_mock.tokens.tokenizer import Turn, byte_level_names, draw

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pre-tokenization pattern of Qwen2.5's tokenizer.json."""

_SPECIAL = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}


class QwenTokenizer:
    """A vocabulary of 151,646 entries. Generated text consists of English sentences, each word one token."""

    def __init__(self) -> None:
        package = find_spec("dashscope")
        if package is None or package.origin is None:
            raise FileNotFoundError("the package dashscope, which ships qwen.tiktoken, is not installed")
        ranks = load_tiktoken_bpe(str(Path(package.origin).parent / "resources" / "qwen.tiktoken"))
        self._encoding = tiktoken.Encoding("qwen", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=_SPECIAL)
        self._sentence = [
            [rank for word in words if (rank := ranks.get(b" " + word.encode())) is not None] for words in SENTENCE
        ]
        self._sentence.append([ranks[b"."]])
        self._first = ranks[b"The"]
        self._ordinary = len(ranks)
        self._special_names = {token: name for name, token in _SPECIAL.items()}
        self._byte_names = byte_level_names()
        self.vocabulary = self._encoding.n_vocab
        self.end_of_sequence = _SPECIAL["<|im_end|>"]

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode(text, allowed_special="all")

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.piece, ids)).decode(errors="replace")

    def piece(self, token: int) -> bytes:
        return self._encoding.decode_single_token_bytes(token) if 0 <= token < self._ordinary else b""

    def name(self, token: int) -> str:
        special = self._special_names.get(token)
        return special if special is not None else "".join(self._byte_names[byte] for byte in self.piece(token))

    def chat_prompt(self, turns: Sequence[Turn]) -> str:
        return qwen_chat_prompt(turns)

    def token(self, request: EngineRequest, position: int) -> int:
        if position == 0:
            return self._first
        words = self._sentence[position % len(self._sentence)]
        return words[draw(request.seed, position, len(words))]
