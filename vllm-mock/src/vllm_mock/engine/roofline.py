"""Step times and KV cache of a model on a GPU, derived from their data sheets. Nothing here is measured by the project.

With P parameters of w bytes on g GPUs (tensor parallelism), of bandwidth B, FLOP/s F and memory M each:

    base             = P(16) w / (g B u) + layers * (LAYER_S + 2 ALL_REDUCE_S if g > 1)
    per prompt token = 2 A / (g F m) + all-reduced bytes / link
    per sequence     = DECODE_SHARE * per prompt token + HOST_S + (P(256) - P(16)) w / (g B u) / 240
    per context token = KV bytes of a GPU / (B u)
    blocks           = (MEMORY_SHARE M - P w / g - ACTIVATIONS_BYTES) / (16 KV bytes of a GPU)

- P(n) is what a step of n sequences reads: all parameters of a dense model. Each of the n sequences selects k of E
  experts, so such a step reads the share 1 - (1 - k/E)^n of the experts. The linear model takes n = 16 as its base.
- A is the number of parameters that compute a token: P, or those of the selected experts.
- u and m are the shares of B and F that kernels reach. They are properties of the GPU.
- A GPU keeps `kv_heads / g` heads of the KV cache, at least one: vLLM replicates heads if there are fewer than GPUs.

`vllm_mock.fit.anchors` compares the result with published measurements.
"""

from dataclasses import dataclass

from vllm_mock.engine.step_time import Card, StepTime

LAYER_S = 20e-6
"""Time of a layer beyond its reads: launches and small kernels. Judgement: the A6000's 22.0 ms and the A100's 13.3 ms
(`vllm_mock.fit.anchors`) leave 0 to 50 us a layer."""

ALL_REDUCE_S = 20e-6
"""Latency of an all-reduce of a small message among 8 GPUs of a machine. A layer has two. Judgement."""

DECODE_SHARE = 0.7
"""Cost of a decoding sequence, relative to a prompt token. Decoding hides most of its computation behind the reads.
Fitted to the A6000's TPOT of 1 to 256 sequences, which grows by 0.122 ms a sequence."""

HOST_S = 10e-6
"""Time of the scheduler, the sampler and the detokenizer for each sequence of a step. Judgement."""

MEMORY_SHARE = 0.9
"""vLLM's default of `gpu_memory_utilization`."""

ACTIVATIONS_BYTES = 2e9
"""Memory of activations and CUDA graphs. With it the formula gives the presets' blocks of the A10 and the L20."""

FEW, MANY = 16, 256
"""Batches between which the reads of experts are linear in this model."""

BLOCK_TOKENS = 16
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its data sheet. FLOP/s are dense, in the precision of the model's weights."""

    memory_bytes: float
    bytes_per_s: float
    flops: float
    bandwidth_share: float = 0.88
    """Share of the bandwidth that kernels reach. 0.88 gives the A10's and L20's presets, within 3 %."""
    compute_share: float = 0.65
    """Share of the FLOP/s that a prefill reaches. The A10's and L20's presets have 0.61 and 0.71."""
    link_bytes_per_s: float = 300e9
    """Effective bandwidth of an all-reduce, if there are several GPUs. Judgement."""
    big: bool = False
    """Whether vLLM uses its defaults for servers with 70 GiB or more, other than the A100: 1024 sequences and 8192
    tokens in a step, in place of 256 and 2048."""


@dataclass(frozen=True, slots=True)
class Model:
    """A transformer by its published configuration."""

    parameters: float
    weight_bytes: float
    """Of a parameter: 2 for bf16, 1 for fp8."""
    layers: int
    kv_heads: int
    head_size: int
    hidden_size: int
    kv_bytes: int = 2
    """Of an element of the KV cache."""
    active_parameters: float | None = None
    """Parameters that compute a token. None: all."""
    experts: int = 1
    selected_experts: int = 1

    @property
    def computing(self) -> float:
        """Parameters that compute a token."""
        return self.active_parameters or self.parameters

    def parameters_read(self, sequences: int) -> float:
        """Expected number of parameters that a step of so many decoding sequences reads."""
        if self.active_parameters is None:
            return self.parameters
        selected = self.selected_experts / self.experts
        in_experts = (self.parameters - self.active_parameters) / (1 - selected)
        return self.parameters - in_experts * (1 - selected) ** sequences


def derived_card(gpu: Gpu, model: Model, gpus: int = 1) -> Card:
    """The card of a server: step times and blocks by the formulas of this module."""
    bytes_per_s = gpu.bytes_per_s * gpu.bandwidth_share
    weights_per_s = gpus * bytes_per_s / model.weight_bytes
    few_s, many_s = (model.parameters_read(sequences) / weights_per_s for sequences in (FEW, MANY))
    layer_s = LAYER_S + (2 * ALL_REDUCE_S if gpus > 1 else 0.0)
    # A ring moves 2 (g - 1) / g of the message; a layer reduces two vectors of 2-byte elements for each token.
    reduced_bytes = model.layers * 2 * model.hidden_size * 2 * 2 * (gpus - 1) / gpus
    prompt_token_s = 2 * model.computing / (gpus * gpu.flops * gpu.compute_share) + reduced_bytes / gpu.link_bytes_per_s
    kv_token_bytes = model.layers * 2 * max(1.0, model.kv_heads / gpus) * model.head_size * model.kv_bytes
    kv_memory = MEMORY_SHARE * gpu.memory_bytes - model.parameters * model.weight_bytes / gpus - ACTIVATIONS_BYTES
    return Card(
        StepTime(
            base_s=few_s + model.layers * layer_s,
            per_decode_s=DECODE_SHARE * prompt_token_s + HOST_S + (many_s - few_s) / (MANY - FEW),
            per_prefill_token_s=prompt_token_s,
            per_context_token_s=kv_token_bytes / bytes_per_s,
        ),
        num_gpu_blocks=int(kv_memory / (BLOCK_TOKENS * kv_token_bytes)),
        max_num_seqs=1024 if gpu.big else 256,
        max_num_batched_tokens=8192 if gpu.big else 2048,
    )
