"""A tokenizer for large simulations: four bytes are a token, and nothing is loaded."""

import zlib
from collections.abc import Sequence

from vllm_mock.engine.messages import EngineRequest
from vllm_mock.tokens.chat_template import qwen_chat_prompt
from vllm_mock.tokens.tokenizer import Turn, draw

BYTES_A_TOKEN = 4


class ApproximateTokenizer:
    """Equal pieces of text are equal tokens, so prefixes are shared as they would be. Decoding gives made-up words."""

    vocabulary = 1 << 31
    end_of_sequence = 0

    def encode(self, text: str) -> list[int]:
        data = text.encode(errors="replace")
        return [zlib.crc32(data[start : start + BYTES_A_TOKEN]) >> 1 for start in range(0, len(data), BYTES_A_TOKEN)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.name(token) for token in ids)

    def piece(self, token: int) -> bytes:
        return self.name(token).encode()

    def name(self, token: int) -> str:
        return f" {'bdfgklmnprst'[token % 12]}{'aeiou'[token // 12 % 5]}{'lmnrst'[token // 60 % 6]}"

    def chat_prompt(self, turns: Sequence[Turn]) -> str:
        return qwen_chat_prompt(turns)

    def token(self, request: EngineRequest, position: int) -> int:
        return 1 + draw(request.seed, position, self.vocabulary - 1)
