"""What `vllm-mock fit` prints."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from vllm_mock.fit.anchors import A6000_TPOT_MS, CONTEXT_TOKENS, anchors
from vllm_mock.fit.closed_loop import measure
from vllm_mock.fit.measurements import Measurement
from vllm_mock.fit.solve import Fit, fit


def report_fit(measurements: Sequence[Measurement], console: Console) -> Fit:
    """Fit, print the coefficients, and what a benchmark of the mock with them would find beside what was measured."""
    found = fit(measurements)
    time = found.step_time
    console.print("step_s = a + b * decoding sequences + c * prefill tokens + d * context tokens read\n")
    console.print(f"a {time.base_s * 1e3:.3f} ms   b {time.per_decode_s * 1e3:.4f} ms", end="   ")
    console.print(f"c {time.per_prefill_token_s * 1e3:.5f} ms   d {time.per_context_token_s:.3g} s")
    if found.undetermined:
        console.print(
            f"[yellow]Set to 0, because these measurements do not tell it: {', '.join(found.undetermined)}. Measure at "
            "more concurrencies, and with prompts and outputs of other lengths.[/]"
        )
    table = Table("clients", "in", "out", "TPOT ms", "mock", "error", "TTFT ms", "mock", "error")
    for column in table.columns:
        column.justify = "right"
    for each in measurements:
        mock = measure(time, each)
        table.add_row(
            str(each.concurrency),
            f"{each.input_tokens:.0f}",
            f"{each.output_tokens:.0f}",
            f"{each.tpot_ms:.1f}",
            f"{mock.tpot_ms:.1f}",
            f"{mock.tpot_ms / each.tpot_ms - 1:+.1%}",
            f"{each.ttft_ms:.0f}",
            f"{mock.ttft_ms:.0f}",
            f"{mock.ttft_ms / each.ttft_ms - 1:+.1%}",
        )
    console.print(table)
    return found


def report_anchors(console: Console) -> None:
    """The presets beside the public anchors."""
    console.print(
        "Presets are derived, not measured on these cards. Expected: TPOT of Qwen2.5-7B on an A6000 "
        f"({', '.join(f'{ms} ms at {n}' for n, ms in A6000_TPOT_MS.items())}), times the ratio of memory bandwidths; "
        "its contexts were not published, so the presets are shown at two lengths."
    )
    lengths = [text for tokens in CONTEXT_TOKENS for text in (f"{tokens} tokens each", "error")]
    table = Table("preset", "clients", "TPOT ms", *lengths)
    for column in table.columns[1:]:
        column.justify = "right"
    for each in anchors():
        cells = [
            text
            for ms, error in zip(each.model_ms, each.errors, strict=True)
            for text in (f"{ms:.1f}", f"{error:+.1%}")
        ]
        table.add_row(each.card, str(each.concurrency), f"{each.expected_ms:.1f}", *cells)
    console.print(table)
