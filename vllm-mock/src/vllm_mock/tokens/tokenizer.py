"""The interface of tokenizers, and helpers that they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vllm_mock.engine.messages import EngineRequest


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str


class Tokenizer(Protocol):
    """Converts text to token ids and back, and samples the tokens of generated text."""

    @property
    def vocabulary(self) -> int:
        """Size of the vocabulary. All ids are below it."""
        ...

    @property
    def end_of_sequence(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`. Unknown ids have no text."""
        ...

    def piece(self, token: int) -> bytes:
        """The UTF-8 bytes of a token, possibly a part of a character. Empty for special tokens."""
        ...

    def name(self, token: int) -> str:
        """The token as the vocabulary file spells it."""
        ...

    def chat_prompt(self, turns: Sequence[Turn]) -> str:
        """The conversation in the model's template, as a prompt for the assistant's answer.

        Raises ChatTemplateError.
        """
        ...

    def token(self, request: EngineRequest, position: int) -> int:
        """See `engine.messages.Sampler`."""
        ...


class ChatTemplateError(Exception):
    """The model's template rejects the conversation."""


def draw(seed: int, position: int, count: int) -> int:
    """A pseudo-random number below `count`, equal for equal arguments (one step of splitmix64)."""
    mixed = (seed + (position + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 27)) % count


def byte_level_names() -> dict[int, str]:
    """The printable character for each byte in byte-level vocabularies (GPT-2's rule).

    A printable byte is itself. The others are the characters from U+0100 on, in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    names = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in names)
    return names | {byte: chr(0x100 + index) for index, byte in enumerate(others)}
