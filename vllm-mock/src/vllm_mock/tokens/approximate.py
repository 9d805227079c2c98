"""A tokenizer for large simulations: four characters are a token, and nothing is loaded."""

import zlib
from collections.abc import Sequence

from vllm_mock.engine.messages import EngineRequest
from vllm_mock.tokens.tokenizer import draw

CHARACTERS = 4


class ApproximateTokenizer:
    """Equal pieces of text are equal tokens, so prefixes are shared as they would be. Decoding gives made-up words."""

    vocabulary = 1 << 31
    end_of_sequence = 0

    def encode(self, text: str) -> list[int]:
        data = text.encode()
        return [zlib.crc32(data[start : start + CHARACTERS]) >> 1 for start in range(0, len(data), CHARACTERS)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(
            f" {'bdfgklmnprst'[token % 12]}{'aeiou'[token // 12 % 5]}{'lmnrst'[token // 60 % 6]}" for token in ids
        )

    def token(self, request: EngineRequest, position: int) -> int:
        return 1 + draw(request.seed, position, self.vocabulary - 1)
