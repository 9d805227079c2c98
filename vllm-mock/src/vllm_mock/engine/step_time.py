"""Step times: a linear model, and what a card is.

step_s = a + b * decoding sequences + c * prefill tokens + d * context tokens read
"""

from dataclasses import dataclass

from vllm_mock.engine.sequence_state import Schedule


@dataclass(frozen=True, slots=True)
class StepTime:
    """The four coefficients of the model, in seconds."""

    base_s: float
    per_decode_s: float
    per_prefill_token_s: float
    per_context_token_s: float

    def duration_s(self, schedule: Schedule) -> float:
        return self.seconds(schedule.decoding, schedule.prefill_tokens, schedule.context_tokens)

    def seconds(self, decoding: int, prefill_tokens: int, context_tokens: int) -> float:
        return (
            self.base_s
            + self.per_decode_s * decoding
            + self.per_prefill_token_s * prefill_tokens
            + self.per_context_token_s * context_tokens
        )

    def scaled(self, factor: float) -> "StepTime":
        """Return the step times of a GPU that takes `factor` times as long for everything."""
        return StepTime(
            self.base_s * factor,
            self.per_decode_s * factor,
            self.per_prefill_token_s * factor,
            self.per_context_token_s * factor,
        )


CARD_BLOCK_SIZE = 16
"""vLLM's default `block_size` on GPUs."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU, or several that work as one, with the model that it serves."""

    step_time: StepTime
    num_gpu_blocks: int
    """Blocks of CARD_BLOCK_SIZE tokens."""
    max_num_seqs: int = 256
    """vLLM's default on this card."""
    max_num_batched_tokens: int = 2048
    """vLLM's default on this card."""

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return self.num_gpu_blocks * CARD_BLOCK_SIZE
