"""The fit recovers the speed model that produced the measurements."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from vllm_mock.engine.roofline import derived_card
from vllm_mock.engine.speed import CARDS, GPUS, MODELS, StepTime
from vllm_mock.fit.anchors import A6000_TPOT_MS, BENCHMARKS, OPT_13B_A100_40G_TOKENS, anchors
from vllm_mock.fit.closed_loop import measure
from vllm_mock.fit.measurements import InvalidMeasurements, Measurement, read_measurements
from vllm_mock.fit.report import report_anchors, report_fit
from vllm_mock.fit.solve import fit


def unmeasured(concurrency: int, prompt: int, output: int) -> Measurement:
    return Measurement(concurrency=concurrency, input_tokens=prompt, output_tokens=output, ttft_ms=1, tpot_ms=1)


PLAN = [
    unmeasured(concurrency, prompt, output)
    for concurrency in (1, 8, 32)
    for prompt, output in ((200, 100), (1000, 60), (60, 300))
]


@pytest.mark.parametrize("card", list(CARDS))
def test_the_fit_recovers_a_preset_from_its_benchmark(card: str) -> None:
    """The benchmark includes queueing, which the equations alone approximate."""
    true = CARDS[card].step_time
    found = fit([measure(true, planned) for planned in PLAN]).step_time
    assert found.base_s == pytest.approx(true.base_s, rel=0.01)
    assert found.per_decode_s == pytest.approx(true.per_decode_s, rel=0.02)
    assert found.per_prefill_token_s == pytest.approx(true.per_prefill_token_s, rel=0.01)
    assert found.per_context_token_s == pytest.approx(true.per_context_token_s, rel=0.02)


def test_noise_of_a_few_percent_changes_predictions_as_little() -> None:
    true = CARDS["a10"].step_time
    noise = (1.03, 0.97, 1.02, 0.98, 1.0)
    noisy = [
        row.model_copy(update={"tpot_ms": row.tpot_ms * noise[at % 5], "ttft_ms": row.ttft_ms * noise[-1 - at % 5]})
        for at, row in enumerate(measure(true, planned) for planned in PLAN)
    ]
    found = fit(noisy).step_time
    for planned in PLAN:
        assert measure(found, planned).tpot_ms == pytest.approx(measure(true, planned).tpot_ms, rel=0.05)


def test_undetermined_coefficients_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """At one length, context is proportional to the number of sequences."""
    true = StepTime(0.02, 1e-4, 2e-4, 0.0)
    rows = [measure(true, unmeasured(n, 200, 100)) for n in (1, 4, 16)]
    found = report_fit(rows, Console(width=160))
    assert "d" in found.undetermined
    assert found.step_time.per_context_token_s == 0
    assert "do not determine it: d." in capsys.readouterr().out


def test_a_single_measurement_gives_no_negative_coefficient() -> None:
    found = fit([unmeasured(4, 200, 100)]).step_time
    assert min(found.base_s, found.per_decode_s, found.per_prefill_token_s, found.per_context_token_s) >= 0


def test_a_fit_without_measurements_is_an_error() -> None:
    with pytest.raises(ValueError, match="no measurements to fit"):
        fit([])


def test_benchmark_results_and_lists_give_the_same_measurements(tmp_path: Path) -> None:
    result = {
        "max_concurrency": 16,
        "completed": 10,
        "total_input_tokens": 1600,
        "total_output_tokens": 600,
        "median_ttft_ms": 23.1,
        "mean_tpot_ms": 10.5,
        "request_rate": "inf",
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    row = "- {concurrency: 16, input_tokens: 160, output_tokens: 60, ttft_ms: 23.1, tpot_ms: 10.5}"
    (tmp_path / "rows.yaml").write_text(row)
    first, second = read_measurements([tmp_path / "result.json", tmp_path / "rows.yaml"])
    assert first == second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {concurrency: 0}", r"concurrency: Input should be greater than or equal to 1 \(found 0\)"),
        ("{max_concurrency: null}", r"max_concurrency: Input should be a valid integer \(found None\)"),
        ("hello", r"found neither a result of `vllm bench serve` nor a list of rows"),
        ("[", r"while parsing"),
    ],
)
def test_an_invalid_file_is_named_in_the_error(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "rows.yaml"
    file.write_text(text)
    with pytest.raises(InvalidMeasurements, match=message) as error:
        read_measurements([file])
    assert str(file) in str(error.value)


def test_presets_are_near_the_public_anchors(capsys: pytest.CaptureFixture[str]) -> None:
    """The anchors cover decoding only."""
    report_anchors(Console(width=120))
    assert "derived" in capsys.readouterr().out
    short, long = zip(*(anchor.errors for anchor in anchors()), strict=True)
    assert max(map(abs, short)) < 0.15
    assert max(map(abs, long)) < 0.3


@pytest.mark.parametrize("card", ["a10", "l20"])
def test_the_roofline_repeats_the_presets(card: str) -> None:
    """The time per sequence of the L20 is the exception: 0.147 ms instead of 0.12."""
    preset, derived = CARDS[card], derived_card(GPUS[card], MODELS["qwen2.5-7b"])
    assert derived.num_gpu_blocks == pytest.approx(preset.num_gpu_blocks, rel=0.02)
    assert derived.step_time.base_s == pytest.approx(preset.step_time.base_s, rel=0.04)
    assert derived.step_time.per_prefill_token_s == pytest.approx(preset.step_time.per_prefill_token_s, rel=0.1)
    assert derived.step_time.per_context_token_s == pytest.approx(preset.step_time.per_context_token_s, rel=0.02)
    assert derived.step_time.per_decode_s == pytest.approx(preset.step_time.per_decode_s, rel=0.25)


def test_the_roofline_is_near_the_published_tpot_of_an_a6000() -> None:
    step_time = derived_card(GPUS["a6000"], MODELS["qwen2.5-7b"]).step_time
    for sequences, tpot_ms in A6000_TPOT_MS.items():
        assert 1000 * step_time.seconds(sequences, 0, 0) == pytest.approx(tpot_ms, rel=0.12)


def test_the_roofline_is_near_published_benchmarks() -> None:
    for benchmark in BENCHMARKS:
        assert -0.2 < benchmark.error < 0.3, benchmark


def test_the_kv_cache_of_a_13b_on_an_a100_is_near_the_published_one() -> None:
    derived = derived_card(GPUS["a100-40g"], MODELS["llama-2-13b"])
    assert derived.num_gpu_blocks * 16 == pytest.approx(OPT_13B_A100_40G_TOKENS, rel=0.2)


def test_kv_heads_are_replicated_when_fewer_than_gpus() -> None:
    """Eight GPUs keep eight copies of four heads, so a token takes twice its bytes."""
    few, many = (
        derived_card(GPUS["h20-fp8"], replace(MODELS["qwen3-235b-a22b-fp8"], kv_heads=heads), 8) for heads in (4, 8)
    )
    assert few.num_gpu_blocks == many.num_gpu_blocks


def test_a_step_of_many_sequences_reads_nearly_all_experts() -> None:
    model = MODELS["qwen3-235b-a22b-fp8"]
    assert model.parameters_read(1) == pytest.approx(22.2e9)
    assert model.parameters_read(16) == pytest.approx(0.66 * model.parameters, rel=0.02)
    assert model.parameters_read(256) == pytest.approx(model.parameters)
