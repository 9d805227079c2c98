"""Verifies all parts of a folder of recordings and prints the results."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vllm_mock.verify.behaviour import verify_behaviour
from vllm_mock.verify.compare import NOT_COMPARED
from vllm_mock.verify.http import verify_http
from vllm_mock.verify.http_counts import verify_http_counts
from vllm_mock.verify.metrics import verify_metrics
from vllm_mock.verify.metrics_lora import verify_lora_metrics
from vllm_mock.verify.real_time import verify_in_real_time
from vllm_mock.verify.recorded_server import FILE, read_server
from vllm_mock.verify.result import Result
from vllm_mock.verify.traces import verify_traces

Part = Callable[[Path], Iterator[Result]]
PARTS: dict[str, tuple[Part, ...]] = {
    "traces": (verify_traces,),
    "metrics": (verify_metrics, verify_lora_metrics),
    "http": (lambda folder: verify_http(folder, "http"), verify_http_counts),
    "flags": (lambda folder: verify_http(folder, "flags/http"),),
    "lora": (lambda folder: verify_http(folder, "lora/http"),),
    "behaviour": (verify_behaviour,),
}


class NothingToVerify(Exception):
    """The folder has no recordings of the requested parts."""


def verify(folder: Path, parts: Sequence[str], console: Console, real: bool = False) -> int:
    """Replays `parts` and prints a row for each file. With `real`, traces are also replayed over HTTP in real time.

    Returns the number of files that differ. Raises NothingToVerify.
    """
    table = Table("file", "result", "", title=f"The mock against {folder.name}", title_justify="left")
    results: list[Result] = []
    with console.status("replaying") as status:
        for part in parts:
            for replay in (*PARTS[part], *((verify_in_real_time,) if real and part == "traces" else ())):
                status.update(f"replaying {part}")
                results += replay(folder)
    if not results:
        raise NothingToVerify(f"{folder}: no recordings of {', '.join(parts)}")
    for result in results:
        same = "same" if result.difference is None else "[red]differs[/]"
        table.add_row(result.file, same, escape(result.difference or result.note))
    console.print(table)
    if not read_server(folder).is_described:
        console.print(f"{folder} has no {FILE}: the server's settings are inferred from the recordings.")
    console.print("Not compared:")
    for part in NOT_COMPARED:
        console.print(f"- {part}", highlight=False, markup=False)
    different = sum(result.difference is not None for result in results)
    console.print(f"\n{len(results) - different} of {len(results)} files the same")
    return different
