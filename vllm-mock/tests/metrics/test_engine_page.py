"""The page equals prometheus_client's output for the same families."""

import time

import engines
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from vllm_mock.engine.messages import EngineConfig
from vllm_mock.metrics.engine_metrics import EngineMetrics
from vllm_mock.metrics.families import Buckets, Scalars
from vllm_mock.metrics.profiles import PROFILES

CONFIG = EngineConfig(num_gpu_blocks=100, enable_lora=True, max_loras=2)


def test_lines_equal_those_of_prometheus_client() -> None:
    """Compares one family of each type, with the same observations."""
    metrics = EngineMetrics(CONFIG, 'a "model"\\n', unix_s=lambda: 1795415138.7268)
    metrics.first_token(1234567, 89, 0.3)
    metrics.first_token(10, 0, 1e-7)
    metrics.step(3, 1, 0, 1 / 3)
    registry = CollectorRegistry()
    labels, values = ("model_name", "engine"), ('a "model"\\n', "0")
    usage = Gauge("vllm:kv_cache_usage_perc", "KV cache usage; 1 is all of it.", labels, registry=registry)
    usage.labels(*values).set(1 / 3)
    prompt = Counter("vllm:prompt_tokens", "Prompt tokens processed.", labels, registry=registry)
    prompt.labels(*values).inc(1234577)
    ttft = Histogram(
        "vllm:time_to_first_token_seconds",
        "Time to the first token.",
        labels,
        buckets=metrics.values.histograms["ttft_s"].bounds,
        registry=registry,
    )
    for value in (0.3, 1e-7):
        ttft.labels(*values).observe(value)
    ours = metrics.engine_text()
    for line in generate_latest(registry).decode().splitlines():
        if "_created{" in line:
            assert line.rpartition(" ")[0] + " 1.7954151387268e+09" in ours.splitlines()
        else:
            assert line in ours.splitlines()


def test_the_page_is_valid_and_has_each_family_once() -> None:
    for profile in PROFILES:
        metrics = EngineMetrics(CONFIG, "m", profile)
        names = [family.name for family in text_string_to_metric_families(metrics.render().decode())]
        assert len(names) == len(set(names)), profile


def test_additional_families_come_last() -> None:
    metrics = EngineMetrics(CONFIG, "m")
    Counter("http_requests", "Requests.", registry=metrics.registry)
    names = [line.split()[2] for line in metrics.render().decode().splitlines() if line.startswith("# TYPE")]
    assert names[0] == "python_gc_objects_collected_total"
    assert names[-2:] == ["http_requests_total", "http_requests_created"]


def test_v0_has_every_metric_of_the_tutorial() -> None:
    text = EngineMetrics(CONFIG, "m", "v0-0.6").engine_text()
    for name in (
        "gpu_cache_usage_perc",
        "request_queue_time_seconds_sum",
        "num_requests_running",
        "num_requests_waiting",
        "num_requests_swapped",
        "avg_generation_throughput_toks_per_s",
        "avg_prompt_throughput_toks_per_s",
        "time_to_first_token_seconds_bucket",
    ):
        assert f"vllm:{name}{{" in text
    assert "engine=" not in text
    assert "_created" not in text


def test_generations_have_their_own_names() -> None:
    def names(profile: str) -> set[str]:
        families = PROFILES[profile].families
        return {family.name.removeprefix("vllm:") for family in families if isinstance(family, Scalars | Buckets)}

    old, both, new = names("v1-0.8"), names("v1-0.10"), names("v1-current")
    assert "gpu_cache_usage_perc" in old & both
    assert "gpu_cache_usage_perc" not in new
    assert "kv_cache_usage_perc" in both & new
    assert "kv_cache_usage_perc" not in old
    assert {"time_per_output_token_seconds", "inter_token_latency_seconds"} <= both
    assert "time_per_output_token_seconds" not in new
    assert "num_requests_waiting_by_reason" in new - both


def test_old_and_new_names_show_the_same_values() -> None:
    engine = engines.engine(EngineConfig(num_gpu_blocks=100), profile="v1-0.10")
    engine.submit(engines.request("a", 100, 50), 0.0)
    engine.advance_to(0.3)
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(engine.metrics.engine_text())
        for sample in family.samples
    }
    assert samples["vllm:gpu_cache_usage_perc"] == samples["vllm:kv_cache_usage_perc"] > 0
    assert samples["vllm:gpu_prefix_cache_queries_total"] == samples["vllm:prefix_cache_queries_total"] == 100


def test_v0_throughput_is_the_mean_of_the_last_interval() -> None:
    """The value is kept until a step ends after the next interval."""
    config = EngineConfig(num_gpu_blocks=1000)
    engine = engines.engine(config, engines.StepTime(0.1, 0, 0, 0), "v0-0.6")
    engine.submit(engines.request("a", 30, 120), 0.0)
    engine.advance_to(4.0)
    assert engine.metrics.values.generation_tokens_per_s == 0
    engine.advance_to(6.0)
    assert 9.5 < engine.metrics.values.generation_tokens_per_s < 10.5
    assert 5.5 < engine.metrics.values.prompt_tokens_per_s < 6.5
    engine.advance_to(60.0)
    assert engine.metrics.values.prompt_tokens_per_s == 0


def test_v0_counts_success_reasons_when_they_first_occur() -> None:
    engine = engines.engine(EngineConfig(num_gpu_blocks=100), profile="v0-0.6")
    assert "vllm:request_success_total{" not in engine.metrics.engine_text()
    engine.submit(engines.request("a", 3, 1), 0.0)
    engine.advance_to(1.0)
    assert 'vllm:request_success_total{finished_reason="length",model_name="m"} 1.0' in engine.metrics.engine_text()


def test_settings_may_add_labels_to_the_cache_config() -> None:
    config = EngineConfig(num_gpu_blocks=100, extra_cache_config={"num_gpu_blocks_override": "None"})
    assert 'num_gpu_blocks_override="None"' in EngineMetrics(config, "m").engine_text()


def test_a_page_costs_less_than_three_milliseconds() -> None:
    """Uses the minimum of many runs, because other processes disturb some."""
    metrics = EngineMetrics(EngineConfig(), "m")
    metrics.render()

    def cost_s() -> float:
        before = time.process_time()
        metrics.render()
        return time.process_time() - before

    assert min(cost_s() for _ in range(30)) < 3e-3
