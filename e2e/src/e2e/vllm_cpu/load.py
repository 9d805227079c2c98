"""Loads by `vllm bench serve`, and the figures that it saves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from e2e.local_gateway import MODEL


@dataclass(frozen=True, slots=True)
class Load:
    """A load that both ports get."""

    name: str
    about: str
    flags: tuple[str, ...]
    """Of the data set."""


class BenchResult(msgspec.Struct, frozen=True):
    """The part of a result file of `vllm bench serve` that is compared. Times are in milliseconds."""

    completed: int
    failed: int
    request_throughput: float
    output_throughput: float
    p50_ttft_ms: float
    p90_ttft_ms: float
    p50_tpot_ms: float
    p90_tpot_ms: float


class BenchFailed(Exception):
    """`vllm bench serve` exited with an error, or saved no figures."""


def shared_prefixes(prefixes: int, prefix_tokens: int, suffix_tokens: int, output_tokens: int) -> Load:
    """Prompts of which each begins with one of a few long common prefixes."""
    return Load(
        "shared-prefixes",
        f"{prefixes} common prefixes of {prefix_tokens:,} tokens, {suffix_tokens} tokens of its own in each prompt, "
        f"answers of {output_tokens} tokens",
        (
            "--dataset-name", "prefix_repetition",
            "--prefix-repetition-num-prefixes", str(prefixes),
            "--prefix-repetition-prefix-len", str(prefix_tokens),
            "--prefix-repetition-suffix-len", str(suffix_tokens),
            "--prefix-repetition-output-len", str(output_tokens),
        ),
    )  # fmt: skip


def random_prompts(input_tokens: int, output_tokens: int) -> Load:
    """Prompts that have nothing in common."""
    return Load(
        "random",
        f"random prompts of {input_tokens // 2} to {input_tokens * 3 // 2} tokens, "
        f"answers of {output_tokens // 2} to {output_tokens * 3 // 2}",
        (
            "--dataset-name", "random",
            "--random-input-len", str(input_tokens),
            "--random-output-len", str(output_tokens),
            "--random-range-ratio", "0.5",
        ),
    )  # fmt: skip


def bench_command(
    python: Path, model: Path, load: Load, url: str, prompts: int, concurrency: int, seed: int, result: Path
) -> Sequence[str]:
    """The command that sends `load` to `url` and saves its figures in `result`."""
    return [
        str(python), "-m", "vllm.entrypoints.cli.main", "bench", "serve",
        "--backend", "vllm", "--base-url", url, "--model", MODEL, "--tokenizer", str(model),
        *load.flags,
        "--num-prompts", str(prompts), "--max-concurrency", str(concurrency), "--seed", str(seed),
        "--ignore-eos", "--temperature", "0", "--disable-tqdm",
        "--percentile-metrics", "ttft,tpot", "--metric-percentiles", "50,90",
        "--save-result", "--result-dir", str(result.parent), "--result-filename", result.name,
    ]  # fmt: skip


def read_result(path: Path) -> BenchResult:
    """Raises BenchFailed."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=BenchResult)
    except (OSError, msgspec.DecodeError) as error:
        raise BenchFailed(f"{path}: {error}") from None
