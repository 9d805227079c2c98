"""The fit recovers the speed model that produced the measurements."""

import json
from pathlib import Path

import pytest
from rich.console import Console
from vllm_mock.engine.speed import CARDS, StepTime
from vllm_mock.fit.anchors import anchors
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
