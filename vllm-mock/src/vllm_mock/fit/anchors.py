"""Compares the cards with public numbers.

No step times of the presets' model on the A10 and the L20 are published. Public are the TPOT of Qwen2.5-7B, which has
the same architecture, on an A6000, and the memory bandwidth of all three cards. Bandwidth bounds decoding, so a card's
TPOT is expected to be the A6000's times the ratio of the bandwidths.

The other cards are derived by `vllm_mock.engine.roofline`. Its formulas are compared with benchmarks of other servers,
and of one of these cards.
"""

from dataclasses import dataclass

from vllm_mock.engine.roofline import derived_card
from vllm_mock.engine.speed import CARDS, GPUS, MODELS

A6000_TPOT_MS = {1: 22.0, 64: 27.5, 128: 36.0, 256: 53.1}
"""TPOT by concurrency. The context lengths were not published, so errors are reported for two lengths."""
CONTEXT_TOKENS = (0, 500)
BANDWIDTH_GB_PER_S = {"a6000": 768.0, "a10": 600.0, "l20": 864.0}
PRESETS = ("a10", "l20")


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
    """Both presets at every concurrency of `A6000_TPOT_MS`."""
    rows: list[Anchor] = []
    for card in PRESETS:
        ratio = BANDWIDTH_GB_PER_S["a6000"] / BANDWIDTH_GB_PER_S[card]
        for concurrency, tpot_ms in A6000_TPOT_MS.items():
            step_time = CARDS[card].step_time
            model_s = [step_time.seconds(concurrency, 0, concurrency * tokens) for tokens in CONTEXT_TOKENS]
            rows.append(Anchor(card, concurrency, tpot_ms * ratio, tuple(1000 * tpot_s for tpot_s in model_s)))
    return rows


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published benchmark: so many sequences at once, each with a prompt and an answer of fixed lengths."""

    gpu: str
    gpus: int
    model: str
    sequences: int
    prompt_tokens: int
    output_tokens: int
    tokens_per_s: float
    """Output tokens a second of all sequences, prefill included."""
    source: str

    @property
    def modelled_tokens_per_s(self) -> float:
        """By the roofline's step times: the prefill of all sequences, then their decoding together."""
        step_time = derived_card(GPUS[self.gpu], MODELS[self.model], self.gpus).step_time
        count, output = self.sequences, self.output_tokens
        context = count * (self.prompt_tokens + output / 2)
        decoding_s = output * step_time.seconds(count, 0, round(context))
        prefill_s = count * self.prompt_tokens * step_time.per_prefill_token_s
        return count * output / (decoding_s + prefill_s)

    @property
    def error(self) -> float:
        """Relative error of `modelled_tokens_per_s`."""
        return self.modelled_tokens_per_s / self.tokens_per_s - 1


_SWEEP = "johnmusgrave.com, vLLM 0.23"
_ORACLE = "blogs.oracle.com, vLLM of 2024"
BENCHMARKS = (
    Benchmark("a100-40g", 1, "llama-3.1-8b", 1, 1024, 128, 75.0, _SWEEP),
    Benchmark("a100-40g", 1, "llama-3.1-8b", 8, 1024, 128, 495.0, _SWEEP),
    # Output tokens a second from the published mean latency of the batch.
    *(
        Benchmark("mi300x-fp8", 8, "llama-3.1-405b-fp8", batch, 128, 128, batch * 128 / latency_s, _ORACLE)
        for batch, latency_s in ((1, 3.530), (8, 3.974), (32, 5.130), (64, 6.919), (128, 10.340), (256, 17.750))
    ),
    Benchmark("mi300x-fp8", 8, "llama-3.1-405b-fp8", 500, 2048, 2048, 2153.7, "amd.com, vLLM 0.10"),
)
"""The MI300X's card is fitted to the last one. It is above the older ones, because vLLM has become faster."""

OPT_13B_A100_40G_TOKENS = 15_700
"""Tokens that the KV cache holds beside OPT-13B on an A100 with 40 GB. Source: Kwon et al. 2023, "Efficient Memory
Management for Large Language Model Serving with PagedAttention", table 1. Llama 2 13B has the same cache."""
