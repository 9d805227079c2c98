"""Step times: a linear model, and its coefficients for two GPUs.

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


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU that serves DeepSeek-R1-Distill-Qwen-7B in bf16."""

    step_time: StepTime
    num_gpu_blocks: int
    """Blocks of 16 tokens."""


CARDS: dict[str, Card] = {
    "a10": Card(StepTime(28.6e-3, 0.15e-3, 0.20e-3, 1.1e-7), 4837),
    "l20": Card(StepTime(20e-3, 0.12e-3, 0.18e-3, 7.5e-8), 28357),
}
"""Derived, not measured on these GPUs: roofline figures fitted to public measurements of Qwen2.5-7B on an A6000. Their
TPOT is 22.0 ms at 1 sequence, 27.5 at 64, 36.0 at 128 and 53.1 at 256."""
