"""Compares the presets with public numbers.

No step times of this model on these cards are published. Public are the TPOT of Qwen2.5-7B, which has the same
architecture, on an A6000, and the memory bandwidth of all three cards. Bandwidth bounds decoding, so a card's TPOT is
expected to be the A6000's times the ratio of the bandwidths.
"""

from dataclasses import dataclass

from vllm_mock.engine.speed import CARDS

A6000_TPOT_MS = {1: 22.0, 64: 27.5, 128: 36.0, 256: 53.1}
"""TPOT by concurrency. The context lengths were not published, so errors are reported for two lengths."""
CONTEXT_TOKENS = (0, 500)
BANDWIDTH_GB_PER_S = {"a6000": 768.0, "a10": 600.0, "l20": 864.0}


@dataclass(frozen=True, slots=True)
class Anchor:
    """A preset's TPOT at one concurrency, expected and modelled."""

    card: str
    concurrency: int
    expected_ms: float
    model_ms: tuple[float, ...]
    """For each of `CONTEXT_TOKENS`, as the context length of every sequence."""

    @property
    def errors(self) -> list[float]:
        """Relative errors of `model_ms`."""
        return [tpot_ms / self.expected_ms - 1 for tpot_ms in self.model_ms]


def anchors() -> list[Anchor]:
    """Every preset at every concurrency of `A6000_TPOT_MS`."""
    rows: list[Anchor] = []
    for card, preset in CARDS.items():
        ratio = BANDWIDTH_GB_PER_S["a6000"] / BANDWIDTH_GB_PER_S[card]
        for concurrency, tpot_ms in A6000_TPOT_MS.items():
            model_s = [preset.step_time.seconds(concurrency, 0, concurrency * tokens) for tokens in CONTEXT_TOKENS]
            rows.append(Anchor(card, concurrency, tpot_ms * ratio, tuple(1000 * tpot_s for tpot_s in model_s)))
    return rows
