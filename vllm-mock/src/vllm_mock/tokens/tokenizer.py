"""What a tokenizer is."""

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
    """Text to token ids and back; also decides what the model says."""

    @property
    def vocabulary(self) -> int:
        """Ids are below this."""
        ...

    @property
    def end_of_sequence(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; of ids that do not exist there is none."""
        ...

    def piece(self, token: int) -> bytes:
        """The UTF-8 bytes that a token adds to a text: maybe a part of a character; nothing for special tokens."""
        ...

    def name(self, token: int) -> str:
        """The token as the vocabulary's file writes it."""
        ...

    def chat_prompt(self, turns: Sequence[Turn]) -> str:
        """The conversation in the model's template, ready for the assistant to speak.

        Raises ChatTemplateError."""
        ...

    def token(self, request: EngineRequest, position: int) -> int:
        """See `engine.messages.Sampler`."""
        ...


class ChatTemplateError(Exception):
    """The model's template does not take this conversation."""


def draw(seed: int, position: int, count: int) -> int:
    """A number below `count` for each position of a text, equal for equal arguments (a step of splitmix64)."""
    mixed = (seed + (position + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 27)) % count


def byte_level_names() -> dict[int, str]:
    """Byte-level vocabularies write each byte as a printable character: itself where it is one, else one of those
    from U+0100 on, in order (GPT-2's rule)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    names = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in names)
    return names | {byte: chr(0x100 + index) for index, byte in enumerate(others)}
