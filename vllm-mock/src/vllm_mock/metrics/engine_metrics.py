"""When the families move: the moments at which vLLM 0.32 writes each, as recorded."""

from prometheus_client import CollectorRegistry, generate_latest

from vllm_mock.engine.messages import EngineConfig, EngineRequest, FinishReason
from vllm_mock.metrics.families import register


class EngineMetrics:
    """One engine's metrics. Times are values in seconds, on the engine's own clock."""

    def __init__(self, config: EngineConfig, model: str) -> None:
        self.registry = CollectorRegistry()
        cache_config = {
            "block_size": str(config.block_size),
            "cache_dtype": "auto",
            "enable_prefix_caching": str(config.enable_prefix_caching),
            "gpu_memory_utilization": "0.9",
            "kv_cache_size_tokens": str(config.num_gpu_blocks * config.block_size),
            "num_cpu_blocks": "None",
            "num_gpu_blocks": str(config.num_gpu_blocks),
            **config.extra_cache_config,
        }
        self._of = register(self.registry, model, config.max_model_len, cache_config)
        self._model = model

    def render(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)

    def rejected(self, reason: str) -> None:
        """A request was refused at the door (`max_num_queued_reqs`)."""
        self._of.rejections.labels(self._model, reason).inc()

    def step(self, running: int, waiting: int, deferred: int, usage: float) -> None:
        """After every step, also one that returned no token."""
        self._of.running.set(running)
        self._of.waiting.set(waiting)
        self._of.waiting_capacity.set(waiting - deferred)
        self._of.waiting_deferred.set(deferred)
        self._of.kv_cache_usage.set(usage)

    def looked_up(self, prompt_tokens: int, cached_tokens: int) -> None:
        """A request was admitted for the first time."""
        self._of.prefix_queries.inc(prompt_tokens)
        self._of.prefix_hits.inc(cached_tokens)

    def step_tokens(self, tokens: int) -> None:
        """A step returned output: computed tokens of the prompts that it completed, and tokens generated."""
        self._of.step_tokens.observe(tokens)

    def first_token(self, prompt_tokens: int, cached_tokens: int, ttft_s: float) -> None:
        """The whole prompt counts at once, also when it was computed in chunks."""
        self._of.prompt_tokens.inc(prompt_tokens)
        self._of.prompt_computed.inc(prompt_tokens - cached_tokens)
        self._of.prompt_cache_hit.inc(cached_tokens)
        self._of.prompt_cached.inc(cached_tokens)
        self._of.prompt_cached_on_device.inc(cached_tokens)
        self._of.ttft_s.observe(ttft_s)

    def generated(self, tokens: int) -> None:
        """Every token."""
        self._of.generation_tokens.inc(tokens)

    def later_token(self, latency_s: float) -> None:
        """Every token but the first."""
        self._of.inter_token_s.observe(latency_s)

    def resumed(self, preemptions: int) -> None:
        """A preempted request got its next token: only now is the preemption counted."""
        self._of.preemptions.inc(preemptions)

    def finished(
        self,
        request: EngineRequest,
        reason: FinishReason,
        generated: int,
        cached_tokens: int,
        preemptions: int,
        *,
        e2e_s: float,
        queue_s: float,
        prefill_s: float,
        decode_s: float,
    ) -> None:
        """Everything that is observed of a whole request, at its end."""
        of = self._of
        of.success.labels(self._model, "0", reason.value).inc()
        of.request_prompt_tokens.observe(len(request.prompt))
        of.request_generation_tokens.observe(generated)
        of.e2e_s.observe(e2e_s)
        of.queue_s.observe(queue_s)
        of.prefill_s.observe(prefill_s)
        of.decode_s.observe(decode_s)
        of.inference_s.observe(prefill_s + decode_s)
        of.time_per_output_token_s.observe(decode_s / (generated - 1) if generated > 1 else 0.0)
        of.request_preemptions.observe(preemptions)
        of.prefill_kv_computed_tokens.observe(len(request.prompt) - cached_tokens)
        if request.params_n is not None:
            of.params_n.observe(request.params_n)
            of.max_generation_tokens.observe(generated)
        if request.params_max_tokens is not None:
            of.params_max_tokens.observe(request.params_max_tokens)
