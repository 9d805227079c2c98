"""A model that made measurements is found again from them."""

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


def asked(concurrency: int, prompt: int, output: int) -> Measurement:
    return Measurement(concurrency=concurrency, input_tokens=prompt, output_tokens=output, ttft_ms=1, tpot_ms=1)


PLAN = [
    asked(concurrency, prompt, output)
    for concurrency in (1, 8, 32)
    for prompt, output in ((200, 100), (1000, 60), (60, 300))
]


@pytest.mark.parametrize("card", list(CARDS))
def test_a_preset_is_found_again_from_what_a_benchmark_of_it_measures(card: str) -> None:
    """Queueing included, which the equations alone only approximate."""
    true = CARDS[card].step_time
    found = fit([measure(true, each) for each in PLAN]).step_time
    assert found.base_s == pytest.approx(true.base_s, rel=0.01)
    assert found.per_decode_s == pytest.approx(true.per_decode_s, rel=0.02)
    assert found.per_prefill_token_s == pytest.approx(true.per_prefill_token_s, rel=0.01)
    assert found.per_context_token_s == pytest.approx(true.per_context_token_s, rel=0.02)


def test_noise_of_a_few_percent_moves_predictions_by_as_much() -> None:
    true = CARDS["a10"].step_time
    noise = (1.03, 0.97, 1.02, 0.98, 1.0)
    noisy = [
        each.model_copy(update={"tpot_ms": each.tpot_ms * noise[at % 5], "ttft_ms": each.ttft_ms * noise[-1 - at % 5]})
        for at, each in enumerate(measure(true, plan) for plan in PLAN)
    ]
    found = fit(noisy).step_time
    for each in PLAN:
        assert measure(found, each).tpot_ms == pytest.approx(measure(true, each).tpot_ms, rel=0.05)


def test_what_measurements_do_not_tell_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """At one length, context and number of sequences are the same thing."""
    true = StepTime(0.02, 1e-4, 2e-4, 0.0)
    rows = [measure(true, asked(n, 200, 100)) for n in (1, 4, 16)]
    found = report_fit(rows, Console(width=160))
    assert "d" in found.undetermined
    assert found.step_time.per_context_token_s == 0
    assert "do not tell it: d." in capsys.readouterr().out


def test_a_single_measurement_gives_no_negative_coefficient() -> None:
    found = fit([asked(4, 200, 100)]).step_time
    assert min(found.base_s, found.per_decode_s, found.per_prefill_token_s, found.per_context_token_s) >= 0


def test_nothing_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="nothing to fit"):
        fit([])


def test_results_of_the_benchmark_tool_and_lists_are_read_alike(tmp_path: Path) -> None:
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
    ("text", "told"),
    [
        ("- {concurrency: 0}", r"concurrency: Input should be greater than or equal to 1 \(found 0\)"),
        ("{max_concurrency: null}", r"max_concurrency: Input should be a valid integer \(found None\)"),
        ("hello", r"found neither a result of `vllm bench serve` nor a list of rows"),
        ("[", r"while parsing"),
    ],
)
def test_a_file_that_holds_no_measurements_is_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "rows.yaml"
    file.write_text(text)
    with pytest.raises(InvalidMeasurements, match=told) as error:
        read_measurements([file])
    assert str(file) in str(error.value)


def test_presets_are_near_the_public_anchors(capsys: pytest.CaptureFixture[str]) -> None:
    """Decoding alone; the table says how near."""
    report_anchors(Console(width=120))
    assert "derived" in capsys.readouterr().out
    short, long = zip(*(each.errors for each in anchors()), strict=True)
    assert max(map(abs, short)) < 0.15
    assert max(map(abs, long)) < 0.3
