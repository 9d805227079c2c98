"""Figures, summary and result file, checked against recorded runs of `vllm bench serve` and by hand."""

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from benchmark.load.pace import Pace
from benchmark.load.samples import LoadResult, Sample
from benchmark.results.printed import DEFAULT_LATENCIES, Latency, printed_summary
from benchmark.results.saved import RunDescription, default_filename, result_json
from benchmark.results.summary import Distribution, Goals, Summary, summarise
from benchmark.workload import Workload
from recorded_bench import RECORDINGS, recording

RUNS = {
    "random-concurrency": (DEFAULT_LATENCIES, (99.0,)),
    "random-concurrency-ignore-eos": (DEFAULT_LATENCIES, (99.0,)),
    "random-rate": (tuple(Latency), (50.0, 90.0, 99.0)),
}


def sample(
    started_s: float, *token_times_s: float, output_tokens: int | None = None, error: str | None = None
) -> Sample:
    return Sample(
        arrived_s=0.0,
        started_s=started_s,
        token_times_s=np.array(token_times_s),
        ended_s=token_times_s[-1] if token_times_s else 0.5,
        prompt_tokens=10,
        output_tokens=len(token_times_s) if output_tokens is None else output_tokens,
        planned_prompt_tokens=10,
        status=200,
        error=error,
    )


def result(*samples: Sample, duration_s: float = 4.0) -> LoadResult:
    return LoadResult(Workload("by hand", ()), samples, duration_s, began_s=0.0)


def recorded_summary(saved: dict[str, Any]) -> Summary:
    """The summary of a recorded result file."""

    def distribution(latency: str) -> Distribution:
        suffix = f"_{latency}_ms"
        percentiles = {
            float(key[1 : -len(suffix)]): value
            for key, value in saved.items()
            if key.endswith(suffix) and key[0] == "p"
        }
        mean, median, std = (saved.get(f"{name}{suffix}", 0.0) for name in ("mean", "median", "std"))
        return Distribution(mean, median, std, percentiles)

    return Summary(
        completed=saved["completed"],
        failed=saved["failed"],
        duration_s=saved["duration"],
        total_input_tokens=saved["total_input_tokens"],
        total_output_tokens=saved["total_output_tokens"],
        request_throughput=saved["request_throughput"],
        request_goodput=saved["request_goodput"],
        output_throughput=saved["output_throughput"],
        total_token_throughput=saved["total_token_throughput"],
        max_output_tokens_per_s=saved["max_output_tokens_per_s"],
        max_concurrent_requests=saved["max_concurrent_requests"],
        ttft=distribution("ttft"),
        tpot=distribution("tpot"),
        itl=distribution("itl"),
        e2el=distribution("e2el"),
    )


def recorded_pace(saved: dict[str, Any]) -> Pace:
    return Pace(saved["max_concurrency"], float(saved["request_rate"]), saved["burstiness"])


@pytest.mark.parametrize("name", RUNS)
def test_the_printed_summary_equals_the_recorded_one(name: str) -> None:
    """The figures are those of the recorded result file."""
    saved = recording(f"bench/{name}.json")["result"]
    text = (RECORDINGS / "bench" / f"{name}.stdout.txt").read_text()
    table = text[text.index("=====") :].strip()
    assert printed_summary(recorded_summary(saved), recorded_pace(saved), RUNS[name][0]) == table


@pytest.mark.parametrize("name", RUNS)
def test_the_saved_file_has_the_recorded_keys_in_their_order(name: str) -> None:
    saved = recording(f"bench/{name}.json")["result"]
    latencies, percentiles = RUNS[name]
    ours = result_json(
        RunDescription(
            date=datetime.strptime(saved["date"], "%Y%m%d-%H%M%S"),
            backend="vllm",
            model_id="/model/qwen",
            tokenizer_id="/models/tiny",
            num_prompts=saved["num_prompts"],
            pace=recorded_pace(saved),
        ),
        result(sample(0, 1, 2)),
        summarise(result(sample(0, 1, 2)), percentiles),
        latencies,
    )
    assert list(ours) == list(saved)
    same = ("date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts")
    assert all(ours[key] == saved[key] for key in (*same, "request_rate", "burstiness", "max_concurrency", "rtfx"))


@pytest.mark.parametrize("name", RUNS)
def test_recorded_throughputs_are_counts_over_the_duration(name: str) -> None:
    """The input has the recorded number of requests. The first one has all tokens."""
    saved = recording(f"bench/{name}.json")["result"]
    others = [replace(sample(0, 1), prompt_tokens=0, output_tokens=0)] * (saved["completed"] - 1)
    first = replace(sample(0, 1), prompt_tokens=saved["total_input_tokens"], output_tokens=saved["total_output_tokens"])
    ours = summarise(result(first, *others, duration_s=saved["duration"]))
    assert ours.request_throughput == saved["request_throughput"]
    assert ours.output_throughput == saved["output_throughput"]
    assert ours.total_token_throughput == saved["total_token_throughput"]


def test_ttft_tpot_itl_and_latency_are_measured_between_events() -> None:
    """One request has 3 tokens at 0.1, 0.2 and 0.4 s. The first event of the other holds two of its 3 tokens."""
    summary = summarise(result(sample(0, 0.1, 0.2, 0.4), sample(1, 0.3, 0.5, output_tokens=3)), (50,))
    assert (summary.ttft.mean_ms, summary.ttft.median_ms, summary.ttft.std_ms) == pytest.approx((200, 200, 100))
    assert summary.ttft.percentiles_ms == pytest.approx({50: 200})
    assert summary.tpot.mean_ms == pytest.approx((150 + 100) / 2)
    assert summary.itl.mean_ms == pytest.approx((100 + 200 + 200) / 3)
    assert summary.e2el.mean_ms == pytest.approx((400 + 500) / 2)


def test_a_request_of_one_token_has_no_tpot() -> None:
    summary = summarise(result(sample(0, 0.1), sample(0, 0.1, 0.3)))
    assert summary.tpot.mean_ms == pytest.approx(200)


def test_failed_requests_change_only_their_count() -> None:
    good = summarise(result(sample(0, 0.1, 0.2)))
    both = summarise(result(sample(0, 0.1, 0.2), sample(0, 9.0, error="reset")))
    assert both == replace(good, failed=1)


def test_a_run_without_a_response_gives_zeros() -> None:
    summary = summarise(result(sample(0, error="refused")))
    assert (summary.completed, summary.failed, summary.request_throughput) == (0, 1, 0)
    assert summary.ttft.percentiles_ms == {50: 0, 90: 0, 99: 0}


def test_peaks_count_in_whole_seconds_from_the_first_request() -> None:
    """As in vLLM's summary, two consecutive requests within a second count as two concurrent ones."""
    summary = summarise(result(sample(5.0, 0.1, 0.2), sample(5.3, 0.1, 0.2, 0.3), sample(7.5, 0.1)))
    assert summary.max_output_tokens_per_s == 5
    assert summary.max_concurrent_requests == 2


@pytest.mark.parametrize(
    ("goals", "good"),
    [(Goals(ttft_ms=150), 1), (Goals(tpot_ms=150), 1), (Goals(e2el_ms=401), 2), (Goals(ttft_ms=150, tpot_ms=150), 0)],
)
def test_goodput_counts_requests_that_meet_every_goal(goals: Goals, good: int) -> None:
    """The requests have TTFTs of 100 and 200 ms, TPOTs of 300 and 100 ms, and both end after 400 ms."""
    summary = summarise(result(sample(0, 0.1, 0.4), sample(0, 0.2, 0.3, 0.4), duration_s=2.0), goals=goals)
    assert summary.request_goodput == good / 2


def test_detailed_results_have_an_entry_for_each_request() -> None:
    run = result(sample(0, 0.1, 0.3), sample(1, error="reset"))
    description = RunDescription(datetime(2026, 1, 2, 3, 4, 5), "vllm", "/model/qwen", "t", 2, Pace(4))
    details = json.loads(json.dumps(result_json(description, run, summarise(run), detailed=True)))
    assert details["ttfts"] == [0.1, 0.0]
    assert details["itls"] == [[pytest.approx(0.2)], []]
    assert details["errors"] == ["", "reset"]
    assert details["output_lens"] == [2, 0]
    assert default_filename(description) == "vllm-infqps-concurrency4-qwen-20260102-030405.json"
