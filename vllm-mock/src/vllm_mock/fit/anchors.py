"""The presets against what is publicly known.

Nobody published step times of this model on these cards. What is public: TPOT of Qwen2.5-7B, the same architecture, on
an A6000, and the memory bandwidth of all three cards, which bounds decoding. A card's TPOT is expected to be the
A6000's times the ratio of the bandwidths.
"""

from dataclasses import dataclass

from vllm_mock.engine.speed import CARDS

A6000_TPOT_MS = {1: 22.0, 64: 27.5, 128: 36.0, 256: 53.1}
"""By concurrency. How long the contexts were was not published: the error is given for two lengths."""
CONTEXT_TOKENS = (0, 500)
BANDWIDTH_GB_PER_S = {"a6000": 768.0, "a10": 600.0, "l20": 864.0}


@dataclass(frozen=True, slots=True)
class Anchor:
    card: str
    concurrency: int
    expected_ms: float
    model_ms: tuple[float, ...]
    """With each of `CONTEXT_TOKENS` in every sequence."""

    @property
    def errors(self) -> list[float]:
        """As shares of what is expected."""
        return [each / self.expected_ms - 1 for each in self.model_ms]


def anchors() -> list[Anchor]:
    """Each preset at each anchor."""
    rows: list[Anchor] = []
    for card, preset in CARDS.items():
        ratio = BANDWIDTH_GB_PER_S["a6000"] / BANDWIDTH_GB_PER_S[card]
        for concurrency, tpot_ms in A6000_TPOT_MS.items():
            model_s = [preset.step_time.seconds(concurrency, 0, concurrency * tokens) for tokens in CONTEXT_TOKENS]
            rows.append(Anchor(card, concurrency, tpot_ms * ratio, tuple(1000 * each for each in model_s)))
    return rows
