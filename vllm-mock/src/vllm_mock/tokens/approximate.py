"""A tokenizer without a vocabulary file, for large simulations: every four bytes are a token."""

from collections.abc import Sequence

from vllm_mock.engine.messages import EngineRequest
from vllm_mock.tokens.chat_template import qwen_chat_prompt
from vllm_mock.tokens.tokenizer import Turn, draw

BYTES_A_TOKEN = 4
_LENGTH_AT = 8 * BYTES_A_TOKEN
"""Bit position of a token's length in bytes within its id. The bits below are the bytes themselves."""


class ApproximateTokenizer:
    """Tokens of four bytes.

    Equal pieces of text are equal tokens, so prefixes are shared as with a real tokenizer, and every text can be
    generated. Ids that encode no bytes, which clients with random prompts of ids send, decode to invented words.
    """

    vocabulary = (BYTES_A_TOKEN + 1) << _LENGTH_AT
    end_of_sequence = 0

    def encode(self, text: str) -> list[int]:
        data = text.encode(errors="replace")
        pieces = (data[start : start + BYTES_A_TOKEN] for start in range(0, len(data), BYTES_A_TOKEN))
        return [len(piece) << _LENGTH_AT | int.from_bytes(piece) for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.piece, ids)).decode(errors="replace")

    def piece(self, token: int) -> bytes:
        if token == self.end_of_sequence or not 0 <= token < self.vocabulary:
            return b""
        length = token >> _LENGTH_AT
        return (token & ((1 << _LENGTH_AT) - 1)).to_bytes(BYTES_A_TOKEN)[-length:] if length else _word(token)

    def name(self, token: int) -> str:
        return self.piece(token).decode(errors="replace")

    def chat_prompt(self, turns: Sequence[Turn]) -> str:
        return qwen_chat_prompt(turns)

    def token(self, request: EngineRequest, position: int) -> int:
        return BYTES_A_TOKEN << _LENGTH_AT | int.from_bytes(_word(draw(request.seed, position, 1 << 16)))


def _word(number: int) -> bytes:
    """An invented word of four characters, the first a space."""
    return f" {'bdfgklmnprst'[number % 12]}{'aeiou'[number // 12 % 5]}{'lmnrst'[number // 60 % 6]}".encode()
