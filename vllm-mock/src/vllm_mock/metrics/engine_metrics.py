"""When the families move: the moments at which vLLM 0.32 writes each, as recorded."""

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
    """One engine's metrics. Times are values in seconds, on the engine's own clock."""

    def __init__(
        self,
        config: EngineConfig,
        model: str,
        profile: str = "v1-current",
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        """`profile` is a name of `PROFILES`; `unix_s` is the wall clock, shown by `_created` families and by
        `vllm:lora_requests_info`."""
        self._profile = PROFILES[profile]
        families = self._profile.families
        bounds = HISTOGRAMS | {each.histogram: each.bounds for each in families if isinstance(each, Buckets)}
        histograms = {name: Histogram(_resolved(each, config.max_model_len)) for name, each in bounds.items()}
        self.values = Values(histograms)
        self.registry = CollectorRegistry()
        """For the families of others, which come after the engine's."""
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
        """The page."""
        return generate_latest(self._process) + self._page.text().encode() + generate_latest(self.registry)

    def engine_text(self) -> str:
        """The engine's part of the page."""
        return self._page.text()

    def rejected(self, reason: str) -> None:
        """A request was refused at the door (`max_num_queued_reqs`)."""
        self.values.rejections[reason] += 1

    def step(self, running: int, capacity: int, deferred: int, usage: float) -> None:
        """After every step, also one that returned no token. Those that wait do so for `capacity` or are `deferred`."""
        values = self.values
        values.running = running
        values.waiting_capacity = capacity
        values.waiting_deferred = deferred
        values.kv_cache_usage = usage

    def looked_up(self, prompt_tokens: int, cached_tokens: int) -> None:
        """A request was admitted for the first time."""
        self.values.prefix_queries += prompt_tokens
        self.values.prefix_hits += cached_tokens

    def output(self, generated: int, step_tokens: int, now_s: float) -> None:
        """A step returned output: tokens generated, and with them the computed tokens of the prompts that it
        completed."""
        self.values.generation_tokens += generated
        self._step_tokens.observe(step_tokens)
        if self._throughput is not None:
            self._throughput.update(now_s)

    def idle(self, now_s: float) -> None:
        """Every 10 s without a step."""
        if self._throughput is not None:
            self._throughput.update(now_s)

    def adapters(self, names: Sequence[str]) -> None:
        """After a step that returned output: the LoRA adapters of live requests that had a token, oldest first. vLLM
        shows the same list as running and as waiting."""
        self.values.adapters[",".join(names)] = self._unix_s()

    def first_token(self, prompt_tokens: int, cached_tokens: int, ttft_s: float) -> None:
        """The whole prompt counts at once, also when it was computed in chunks."""
        self.values.prompt_tokens += prompt_tokens
        self.values.prompt_cached += cached_tokens
        self._ttft_s.observe(ttft_s)

    def later_tokens(self, latency_s: float, times: int) -> None:
        """Every token but the first; `times` of them came as long after the one before."""
        if times:
            self._inter_token_s.observe(latency_s, times)

    def resumed(self, preemptions: int) -> None:
        """A preempted request got its next token: only now is the preemption counted."""
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
        """Everything that is observed of a whole request, at its end."""
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
    """Tokens a second as the V0 engine gave them: the mean over the last interval, computed by the first step (or look
    at an idle engine) after it and kept until the next."""

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
