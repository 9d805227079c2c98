"""The result file of `vllm bench serve`, with the same keys in the same order."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np

from benchmark.load.pace import Pace
from benchmark.load.samples import LoadResult
from benchmark.results.printed import DEFAULT_LATENCIES, Latency, percentile_word
from benchmark.results.summary import Summary

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RunDescription:
    """The fields of the result file that are not figures."""

    date: datetime
    backend: str
    model_id: str
    tokenizer_id: str
    num_prompts: int
    pace: Pace
    label: str | None = None
    metadata: Mapping[str, str] | None = None


def result_json(
    description: RunDescription,
    result: LoadResult,
    summary: Summary,
    latencies: Sequence[Latency] = DEFAULT_LATENCIES,
    detailed: bool = False,
) -> Json:
    """The file's content. `detailed` adds lists with an entry for each request. Its texts are empty unless the run kept
    them."""
    rate = description.pace.request_rate
    return {
        "date": f"{description.date:%Y%m%d-%H%M%S}",
        "endpoint_type": description.backend,
        "backend": description.backend,
        "label": description.label,
        "model_id": description.model_id,
        "tokenizer_id": description.tokenizer_id,
        "num_prompts": description.num_prompts,
        **(description.metadata or {}),
        "request_rate": "inf" if math.isinf(rate) else rate,
        "burstiness": description.pace.burstiness,
        "max_concurrency": description.pace.max_concurrency,
        "duration": summary.duration_s,
        "completed": summary.completed,
        "failed": summary.failed,
        "total_input_tokens": summary.total_input_tokens,
        "total_output_tokens": summary.total_output_tokens,
        "request_throughput": summary.request_throughput,
        "request_goodput": summary.request_goodput,
        "output_throughput": summary.output_throughput,
        "total_token_throughput": summary.total_token_throughput,
        **(_details(result) if detailed else {}),
        "latencies": [sample.latency_s for sample in result.samples],
        "queue_times": [sample.started_s - sample.arrived_s for sample in result.samples],
        "max_output_tokens_per_s": summary.max_output_tokens_per_s,
        "max_concurrent_requests": summary.max_concurrent_requests,
        # The real-time factor of speech: 0 for text, and present in every file.
        "rtfx": 0.0,
        **{key: value for latency in Latency if latency in latencies for key, value in _latency(latency, summary)},
    }


def save(path: Path, content: Json) -> None:
    """Writes a result file and creates its folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(content))


def default_filename(description: RunDescription) -> str:
    """The file name that `vllm bench serve` uses."""
    concurrency = description.pace.max_concurrency
    return (
        f"{description.label or description.backend}-{description.pace.request_rate}qps"
        f"{f'-concurrency{concurrency}' if concurrency is not None else ''}"
        f"-{description.model_id.rsplit('/', 1)[-1]}-{description.date:%Y%m%d-%H%M%S}.json"
    )


def _details(result: LoadResult) -> Json:
    samples = result.samples
    return {
        "input_lens": [sample.prompt_tokens for sample in samples],
        "output_lens": [sample.output_tokens if sample.error is None else 0 for sample in samples],
        "start_times": [sample.started_s for sample in samples],
        "ttfts": [sample.ttft_s for sample in samples],
        "itls": [np.diff(sample.token_times_s).tolist() for sample in samples],
        "generated_texts": [sample.text or "" for sample in samples],
        "errors": [sample.error or "" for sample in samples],
    }


def _latency(latency: Latency, summary: Summary) -> list[tuple[str, float]]:
    figures = latency.of(summary)
    return [
        (f"mean_{latency}_ms", figures.mean_ms),
        (f"median_{latency}_ms", figures.median_ms),
        (f"std_{latency}_ms", figures.std_ms),
        *(
            (f"p{percentile_word(percentile)}_{latency}_ms", value_ms)
            for percentile, value_ms in figures.percentiles_ms.items()
        ),
    ]
