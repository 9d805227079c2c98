"""Output of `vllm-mock fit`."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from vllm_mock.fit.anchors import A6000_TPOT_MS, BENCHMARKS, CONTEXT_TOKENS, anchors
from vllm_mock.fit.closed_loop import measure
from vllm_mock.fit.measurements import Measurement
from vllm_mock.fit.solve import Fit, fit


def report_fit(measurements: Sequence[Measurement], console: Console) -> Fit:
    """Fits the model, prints its coefficients, and compares a simulated benchmark with the measurements."""
    found = fit(measurements)
    time = found.step_time
    console.print("step_s = a + b * decoding sequences + c * prefill tokens + d * context tokens read\n")
    console.print(f"a {time.base_s * 1e3:.3f} ms   b {time.per_decode_s * 1e3:.4f} ms", end="   ")
    console.print(f"c {time.per_prefill_token_s * 1e3:.5f} ms   d {time.per_context_token_s:.3g} s")
    if found.undetermined:
        console.print(
            "[yellow]Set to 0, because these measurements do not determine it: "
            f"{', '.join(found.undetermined)}. Measure at "
            "more concurrencies, and with prompts and outputs of other lengths.[/]"
        )
    table = Table("clients", "in", "out", "TPOT ms", "mock", "error", "TTFT ms", "mock", "error")
    for column in table.columns:
        column.justify = "right"
    for measured in measurements:
        mock = measure(time, measured)
        table.add_row(
            str(measured.concurrency),
            f"{measured.input_tokens:.0f}",
            f"{measured.output_tokens:.0f}",
            f"{measured.tpot_ms:.1f}",
            f"{mock.tpot_ms:.1f}",
            f"{mock.tpot_ms / measured.tpot_ms - 1:+.1%}",
            f"{measured.ttft_ms:.0f}",
            f"{mock.ttft_ms:.0f}",
            f"{mock.ttft_ms / measured.ttft_ms - 1:+.1%}",
        )
    console.print(table)
    return found


def report_anchors(console: Console) -> None:
    """Prints the presets and their errors against public numbers."""
    console.print(
        "Presets are derived, not measured on these cards. Expected: TPOT of Qwen2.5-7B on an A6000 "
        f"({', '.join(f'{ms} ms at {n}' for n, ms in A6000_TPOT_MS.items())}), times the ratio of memory bandwidths. "
        "Its context lengths were not published, so the presets are shown at two lengths."
    )
    lengths = [text for tokens in CONTEXT_TOKENS for text in (f"{tokens} tokens each", "error")]
    table = Table("preset", "clients", "TPOT ms", *lengths)
    for column in table.columns[1:]:
        column.justify = "right"
    for anchor in anchors():
        cells = [
            text
            for ms, error in zip(anchor.model_ms, anchor.errors, strict=True)
            for text in (f"{ms:.1f}", f"{error:+.1%}")
        ]
        table.add_row(anchor.card, str(anchor.concurrency), f"{anchor.expected_ms:.1f}", *cells)
    console.print(table)
    console.print(
        "\nThe other cards are derived by the same formulas as these servers, whose benchmarks are published. "
        "vLLM has become faster since the one of 2024."
    )
    table = Table("server", "sequences", "published tokens/s", "model", "error", "source")
    for benchmark in BENCHMARKS:
        table.add_row(
            f"{benchmark.gpus} {benchmark.gpu} {benchmark.model}",
            str(benchmark.sequences),
            f"{benchmark.tokens_per_s:.0f}",
            f"{benchmark.modelled_tokens_per_s:.0f}",
            f"{benchmark.error:+.0%}",
            benchmark.source,
        )
    console.print(table)
