"""The table of cards: step times and KV cache sizes of servers. All of it is derived, nothing is measured on them."""

from vllm_mock.engine.roofline import MIB, Gpu, Model, derived_card
from vllm_mock.engine.step_time import Card, StepTime

__all__ = ["CARDS", "GPUS", "MODELS", "Card", "StepTime"]

GPUS: dict[str, Gpu] = {
    "a10": Gpu(24e9, 600e9, 125e12),
    "l20": Gpu(47.8e9, 864e9, 119.5e12),
    "a6000": Gpu(49140 * MIB, 768e9, 154.8e12),
    "a100-40g": Gpu(40960 * MIB, 1555e9, 312e12),
    "a100-80g": Gpu(81920 * MIB, 2039e9, 312e12),
    # Its 72 W do not sustain the boost clock in a prefill. Judgement.
    "l4": Gpu(23034 * MIB, 300e9, 121e12, compute_share=0.45),
    "rtx-4090": Gpu(24564 * MIB, 1008e9, 165.2e12),
    "b200-fp8": Gpu(183359 * MIB, 8000e9, 4500e12, compute_share=0.45, big=True),
    # Shares fitted to AMD's benchmark of the 405B in 2025 (`vllm_mock.fit.anchors`).
    "mi300x-fp8": Gpu(196592 * MIB, 5300e9, 2615e12, bandwidth_share=0.65, compute_share=0.25, big=True),
    "h20-fp8": Gpu(97871 * MIB, 4000e9, 296e12, compute_share=0.55, big=True),
}
"""Memory as the driver reports it, bandwidth and dense FLOP/s of the data sheets (bf16, or fp8 where named)."""

MODELS: dict[str, Model] = {
    "qwen2.5-7b": Model(7.62e9, 2, 28, 4, 128, 3584),
    "llama-2-13b": Model(13.02e9, 2, 40, 40, 128, 5120),
    "llama-3.1-8b": Model(8.03e9, 2, 32, 8, 128, 4096),
    "llama-3.2-3b": Model(3.21e9, 2, 28, 8, 128, 3072),
    "llama-3.3-70b-fp8": Model(70.55e9, 1, 80, 8, 128, 8192),
    "llama-3.1-405b-fp8": Model(405.85e9, 1, 126, 8, 128, 16384),
    "qwen3-235b-a22b-fp8": Model(
        235.1e9, 1, 94, 4, 128, 4096, active_parameters=22.2e9, experts=128, selected_experts=8
    ),
}
"""Parameters, bytes of a weight, layers, KV heads, size of a head, hidden size: the models' published `config.json`."""

CARDS: dict[str, Card] = {
    "a10": Card(StepTime(28.6e-3, 0.15e-3, 0.20e-3, 1.1e-7), 4837),
    "l20": Card(StepTime(20e-3, 0.12e-3, 0.18e-3, 7.5e-8), 28357),
    "a100-13b": derived_card(GPUS["a100-80g"], MODELS["llama-2-13b"]),
    "l4-8b": derived_card(GPUS["l4"], MODELS["llama-3.1-8b"]),
    "4090-3b": derived_card(GPUS["rtx-4090"], MODELS["llama-3.2-3b"]),
    "b200-70b": derived_card(GPUS["b200-fp8"], MODELS["llama-3.3-70b-fp8"]),
    "mi300x-405b": derived_card(GPUS["mi300x-fp8"], MODELS["llama-3.1-405b-fp8"], gpus=8),
    "h20-235b": derived_card(GPUS["h20-fp8"], MODELS["qwen3-235b-a22b-fp8"], gpus=8),
}
"""The A10 and the L20 serve DeepSeek-R1-Distill-Qwen-7B in bf16. They are roofline figures fitted to public
measurements of Qwen2.5-7B on an A6000: a TPOT of 22.0 ms at 1 sequence, 27.5 at 64, 36.0 at 128 and 53.1 at 256.

The others are derived by `vllm_mock.engine.roofline`. It repeats these two within a tenth, except the L20's time per
sequence, for which it gives 0.147 ms."""
