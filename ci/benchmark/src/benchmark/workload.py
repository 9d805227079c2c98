"""Workloads: prompts of known length, single or as the turns of a conversation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt of one request."""

    text: str
    """In a turn after the first: what the user adds to the conversation."""
    tokens: int
    """Length of `text` by the client's tokenizer."""
    output_tokens: int
    """Tokens to request as output."""


Conversation = Sequence[Prompt]
"""Turns. Each is sent after the response to the previous one. Most conversations have one turn."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Conversations in the order in which they start."""

    name: str
    """The data set and its settings, as printed."""
    conversations: tuple[Conversation, ...]
    ignore_eos: bool = True
    """Whether the server generates all requested tokens even after the model's end-of-sequence token."""

    def __len__(self) -> int:
        """Number of requests; every turn counts."""
        return sum(len(turns) for turns in self.conversations)

    def __iter__(self) -> Iterator[Prompt]:
        for turns in self.conversations:
            yield from turns

    def salted(self, salt: str) -> "Workload":
        """The same workload with the line `salt` before every conversation.

        Prompts that share a prefix still share it. No prefix is shared with earlier requests, so the workload meets
        an empty prefix cache."""
        return replace(
            self,
            conversations=tuple(
                (replace(turns[0], text=f"{salt}\n{turns[0].text}"), *turns[1:]) for turns in self.conversations
            ),
        )
