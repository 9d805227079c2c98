"""Updates the metrics at the moments at which vLLM 0.32 updates each, as recorded."""

import time
from collections.abc import Callable, Sequence
from functools import cached_property

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest

from vllm_mock.engine.messages import EngineConfig, EngineRequest, FinishReason
from vllm_mock.metrics.buckets import HISTOGRAMS
from vllm_mock.metrics.families import Bounds, Buckets, CacheSettings
from vllm_mock.metrics.page import Page
from vllm_mock.metrics.profiles import PROFILES
from vllm_mock.metrics.values import Histogram, Values


class EngineMetrics:
    """Metrics of one engine. Times are in seconds on the engine's own clock."""

    def __init__(
        self,
        config: EngineConfig,
        model: str,
        profile: str = "v1-current",
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        """`profile` is a name of `PROFILES`. `unix_s` is the wall clock, which `_created` families and
        `vllm:lora_requests_info` show."""
        self._profile = PROFILES[profile]
        families = self._profile.families
        bounds = HISTOGRAMS | {family.histogram: family.bounds for family in families if isinstance(family, Buckets)}
        limit = config.max_model_len
        histograms = {name: Histogram(_resolved(buckets, limit)) for name, buckets in bounds.items()}
        self.values = Values(histograms)
        self.registry = CollectorRegistry()
        """Registry of additional families, which follow the engine's on the page."""
        self._config = config
        self._model = model
        self._unix_s = unix_s
        self._created_unix_s = unix_s()
        interval_s = self._profile.throughput_interval_s
        self._throughput = Throughput(self.values, interval_s) if interval_s is not None else None
        self._ttft_s = histograms["ttft_s"]
        self._inter_token_s = histograms["inter_token_s"]
        self._step_tokens = histograms["step_tokens"]

    @cached_property
    def _page(self) -> Page:
        config = self._config
        return Page(
            self._profile.families,
            self.values,
            self._model,
            CacheSettings(config.block_size, config.num_gpu_blocks, config.enable_prefix_caching, config.max_model_len),
            max_loras=config.max_loras if config.enable_lora else None,
            created_unix_s=self._created_unix_s if self._profile.created else None,
            extra_cache_config=config.extra_cache_config,
        )

    @cached_property
    def _process(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        GCCollector(registry=registry)
        PlatformCollector(registry=registry)
        ProcessCollector(registry=registry)
        return registry

    def render(self) -> bytes:
        """The whole page of /metrics."""
        return generate_latest(self._process) + self._page.text().encode() + generate_latest(self.registry)

    def engine_text(self) -> str:
        """The engine's part of the page."""
        return self._page.text()

    def rejected(self, reason: str) -> None:
        """Counts a request rejected by admission, by reason (`max_num_queued_reqs`)."""
        self.values.rejections[reason] += 1

    def step(self, running: int, capacity: int, deferred: int, usage: float) -> None:
        """Sets the gauges after a step, also after one without output.

        `capacity` and `deferred` are the waiting requests by reason.
        """
        values = self.values
        values.running = running
        values.waiting_capacity = capacity
        values.waiting_deferred = deferred
        values.kv_cache_usage = usage

    def looked_up(self, prompt_tokens: int, cached_tokens: int) -> None:
        """Counts a prefix cache lookup, made when a request is first admitted."""
        self.values.prefix_queries += prompt_tokens
        self.values.prefix_hits += cached_tokens

    def output(self, generated: int, step_tokens: int, now_s: float) -> None:
        """Counts the output of a step.

        `step_tokens` are the generated tokens plus the computed tokens of prompts that the step completed.
        """
        self.values.generation_tokens += generated
        self._step_tokens.observe(step_tokens)
        if self._throughput is not None:
            self._throughput.update(now_s)

    def idle(self, now_s: float) -> None:
        """Updates the throughput gauges. Called every 10 s without a step."""
        if self._throughput is not None:
            self._throughput.update(now_s)

    def adapters(self, names: Sequence[str]) -> None:
        """Records the LoRA adapters in use after a step with output.

        `names` are the adapters of live requests that have generated a token, oldest first. vLLM shows the same list as
        running and as waiting.
        """
        self.values.adapters[",".join(names)] = self._unix_s()

    def first_token(self, prompt_tokens: int, cached_tokens: int, ttft_s: float) -> None:
        """Counts a first token. The whole prompt counts at once, also if it was computed in chunks."""
        self.values.prompt_tokens += prompt_tokens
        self.values.prompt_cached += cached_tokens
        self._ttft_s.observe(ttft_s)

    def later_tokens(self, latency_s: float, times: int) -> None:
        """Counts `times` tokens after the first, each `latency_s` after the previous token."""
        if times:
            self._inter_token_s.observe(latency_s, times)

    def resumed(self, preemptions: int) -> None:
        """Counts preemptions. vLLM counts them when the preempted request generates its next token."""
        self.values.preemptions += preemptions

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
        """Observes the histograms of whole requests, when a request finishes."""
        of = self.values.histograms
        self.values.success[reason] += 1
        of["request_prompt_tokens"].observe(len(request.prompt))
        of["request_generation_tokens"].observe(generated)
        of["e2e_s"].observe(e2e_s)
        of["queue_s"].observe(queue_s)
        of["prefill_s"].observe(prefill_s)
        of["decode_s"].observe(decode_s)
        of["inference_s"].observe(prefill_s + decode_s)
        of["time_per_output_token_s"].observe(decode_s / (generated - 1) if generated > 1 else 0.0)
        of["request_preemptions"].observe(preemptions)
        of["prefill_kv_computed_tokens"].observe(len(request.prompt) - cached_tokens)
        of["params_max_tokens"].observe(request.max_tokens)
        siblings = request.siblings
        if siblings is None or siblings.ended(generated):
            of["params_n"].observe(siblings.count if siblings is not None else 1)
            of["max_generation_tokens"].observe(siblings.longest if siblings is not None else generated)


class Throughput:
    """Throughput gauges of the V0 engine, in tokens per second.

    A gauge is the mean over the last interval. It is computed by the first step, or idle update, after the interval
    and kept until the next.
    """

    def __init__(self, values: Values, interval_s: float) -> None:
        self._values = values
        self._interval_s = interval_s
        self._since_s = 0.0
        self._prompt_tokens = self._generation_tokens = 0

    def update(self, now_s: float) -> None:
        elapsed_s = now_s - self._since_s
        if elapsed_s <= self._interval_s:
            return
        values = self._values
        values.prompt_tokens_per_s = (values.prompt_tokens - self._prompt_tokens) / elapsed_s
        values.generation_tokens_per_s = (values.generation_tokens - self._generation_tokens) / elapsed_s
        self._since_s = now_s
        self._prompt_tokens, self._generation_tokens = values.prompt_tokens, values.generation_tokens


def _resolved(bounds: Bounds, max_model_len: int) -> Sequence[float]:
    return bounds(max_model_len) if callable(bounds) else bounds
