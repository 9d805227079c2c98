"""What is sent: prompts of known length, alone or as the turns of a conversation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to be."""

    text: str
    """Of a turn that is not the first: what the user adds to the conversation so far."""
    tokens: int
    """Of `text`, by the client's tokenizer."""
    output_tokens: int
    """How many tokens to ask for."""


Conversation = Sequence[Prompt]
"""Turns, each sent when the one before has been answered. Most conversations have one."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Conversations in the order in which they begin."""

    name: str
    """For people: the data set and its settings."""
    conversations: tuple[Conversation, ...]
    ignore_eos: bool = True
    """Whether the server shall generate as many tokens as asked for, whatever the model says."""

    def __len__(self) -> int:
        """Requests, every turn counted."""
        return sum(len(turns) for turns in self.conversations)

    def __iter__(self) -> Iterator[Prompt]:
        for turns in self.conversations:
            yield from turns

    def salted(self, salt: str) -> "Workload":
        """The same with a line of its own before every conversation: what shares a prefix within this workload still
        does, and nothing is shared with what was sent before, so that a server's prefix cache begins empty."""
        return replace(
            self,
            conversations=tuple(
                (replace(turns[0], text=f"{salt}\n{turns[0].text}"), *turns[1:]) for turns in self.conversations
            ),
        )
