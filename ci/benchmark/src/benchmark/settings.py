"""Every setting of `benchmark-serving`, read from flags.

The flags, their names and their defaults are those of vLLM's benchmark_serving.py and of its successor `vllm bench
serve`, so that a command line written for them works as typed; unknown ones are refused. Flags of ours are marked."""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmark.datasets.random_lengths import RandomLengths
from benchmark.load.pace import Pace
from benchmark.load.target import Api
from benchmark.replicas.watch import DEFAULT_INTERVAL_S, Replica, replica_at
from benchmark.results.printed import DEFAULT_LATENCIES, Latency
from benchmark.results.summary import Goals

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """What both commands take: what to send, and how fast."""

    backend: str
    api: Api
    endpoint: str | None
    model: str | None
    """A name or a folder; None: the first that the server lists."""
    served_model_name: str | None
    tokenizer: str | None
    random: RandomLengths
    pace: Pace
    seed: int
    ignore_eos: bool
    temperature: float | None
    logprobs: int | None
    headers: tuple[tuple[str, str], ...]
    show_progress: bool
    replicas: tuple[Replica, ...]
    replica_interval_s: float


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """`benchmark-serving [flags]`."""

    load: LoadSettings
    base_url: str
    latencies: tuple[Latency, ...]
    percentiles: tuple[float, ...]
    goals: Goals
    save_result: bool
    save_detailed: bool
    result_dir: Path
    result_filename: str | None
    label: str | None
    metadata: tuple[tuple[str, str], ...]
    request_id_prefix: str | None


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """`benchmark-serving compare [flags]`."""

    load: LoadSettings
    targets: tuple[tuple[str, str], ...]
    """Names and base URLs."""
    rounds: int
    plot: Path | None


def read_serve(arguments: Sequence[str]) -> ServeSettings:
    """Exits 2 with a sentence on wrong usage, and 0 after --help, as argparse does."""
    parser = argparse.ArgumentParser(
        "benchmark-serving",
        usage="benchmark-serving [flags]",
        description="Benchmark an OpenAI-compatible server: vLLM's benchmark_serving.py, with its flags, its summary "
        "and its result file. `benchmark-serving compare` runs two servers in turns and judges the difference.",
        allow_abbrev=False,
    )
    where = parser.add_argument_group("where")
    where.add_argument("--base-url", help="scheme, host and port in one; instead of --host and --port")
    where.add_argument("--host", default="127.0.0.1")
    where.add_argument("--port", type=int, default=8000)
    _add_load_flags(parser)
    shown = parser.add_argument_group("what is shown and saved")
    shown.add_argument(
        "--percentile-metrics",
        type=_split(Latency),
        default=DEFAULT_LATENCIES,
        metavar="LIST",
        help="latencies to show, of ttft,tpot,itl,e2el (default: the first three)",
    )
    shown.add_argument(
        "--metric-percentiles",
        type=_split(_percentile),
        default=(99.0,),
        metavar="LIST",
        help="percentiles to show, such as 50,90,99 (default: 99)",
    )
    shown.add_argument(
        "--goodput",
        nargs="+",
        type=_goal,
        default=[],
        metavar="METRIC:MS",
        help="what a good request stays within, of ttft, tpot and e2el, such as ttft:300 tpot:40",
    )
    shown.add_argument("--save-result", action="store_true", help="write a JSON file of the figures")
    shown.add_argument("--save-detailed", action="store_true", help="with lists that have an entry for each request")
    shown.add_argument("--result-dir", type=Path, default=Path(), help="folder for it (default: this one)")
    shown.add_argument("--result-filename", help="instead of a name made of backend, rate, model and date")
    shown.add_argument("--label", help="begins the file's name, and stands in it")
    shown.add_argument("--metadata", nargs="*", type=_pair, default=[], metavar="KEY=VALUE", help="goes into it")
    shown.add_argument("--request-id-prefix", help="of the header X-Request-ID (default: bench-<8 hex>-)")
    given = parser.parse_args(arguments)
    return ServeSettings(
        load=_load(given),
        base_url=given.base_url or f"http://{_bracketed(given.host)}:{given.port}",
        latencies=given.percentile_metrics,
        percentiles=given.metric_percentiles,
        goals=Goals(**{f"{name}_ms": value for name, value in given.goodput}),
        save_result=given.save_result or given.save_detailed,
        save_detailed=given.save_detailed,
        result_dir=given.result_dir,
        result_filename=given.result_filename,
        label=given.label,
        metadata=tuple(given.metadata),
        request_id_prefix=given.request_id_prefix,
    )


def read_compare(arguments: Sequence[str]) -> CompareSettings:
    """Exits 2 with a sentence on wrong usage, and 0 after --help, as argparse does."""
    parser = argparse.ArgumentParser(
        "benchmark-serving compare",
        usage="benchmark-serving compare --target NAME=URL --target NAME=URL [flags]",
        description="Send the same load to several targets in turns, round by round, and say which figures differ by "
        "more than noise. Exits 0 whatever the figures, and 1 when requests failed.",
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what is compared")
    what.add_argument(
        "--target",
        action="append",
        required=True,
        type=_pair,
        metavar="NAME=URL",
        help="twice or more: ratios are to the first",
    )
    what.add_argument(
        "--rounds",
        type=_whole(1),
        default=4,  # The fewest that see a 10 % difference through a noise of 5 %, and turn the order twice.
        help="of all targets each; even, so that each goes first equally often (default: 4)",
    )
    what.add_argument("--plot", type=Path, metavar="PNG", help="picture of the replicas' KV cache utilisation")
    _add_load_flags(parser)
    given = parser.parse_args(arguments)
    names = [name for name, _ in given.target]
    if len(names) < 2 or len(set(names)) < len(names):
        parser.error(f"--target: found {', '.join(names)}; needed are two or more, of different names")
    return CompareSettings(load=_load(given), targets=tuple(given.target), rounds=given.rounds, plot=given.plot)


_APIS = {"vllm": Api.COMPLETIONS, "openai": Api.COMPLETIONS, "openai-chat": Api.CHAT}


def _add_load_flags(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group("the server")
    server.add_argument(
        "--backend", choices=tuple(_APIS), default="vllm", help="openai-chat sends chats (default: vllm)"
    )
    server.add_argument("--endpoint", help="path (default: /v1/completions, of openai-chat /v1/chat/completions)")
    server.add_argument("--model", help="name or folder of the model (default: the first that the server lists)")
    server.add_argument("--served-model-name", help="the name that the server knows it by, if another")
    server.add_argument("--tokenizer", help="folder with a tokenizer.json (default: --model, else the Qwen vocabulary)")
    server.add_argument("--tokenizer-mode", choices=("auto",), default="auto", help="accepted; there is one mode")
    server.add_argument("--trust-remote-code", action="store_true", help="accepted; no code of a model is ever run")
    server.add_argument("--header", nargs="*", type=_pair, default=[], metavar="KEY=VALUE", help="sent with requests")
    server.add_argument("--temperature", type=float, help="(default: the server's)")
    server.add_argument("--logprobs", type=int, help="log probabilities to ask for, a token")
    server.add_argument("--ignore-eos", action="store_true", help="generate the full length; implied by random prompts")
    _add_dataset_flags(parser)
    pace = parser.add_argument_group("how fast")
    pace.add_argument("--max-concurrency", type=_whole(1), help="requests at a time (default: no bound)")
    pace.add_argument("--request-rate", type=_positive, default=math.inf, help="requests a second (default: inf)")
    pace.add_argument("--burstiness", type=_positive, default=1.0, help="1: Poisson; less: burstier (default: 1)")
    pace.add_argument("--disable-tqdm", action="store_true", help="show no progress")
    seen = parser.add_argument_group("watching the replicas (ours)")
    seen.add_argument(
        "--replica-metrics",
        nargs="+",
        action="extend",
        type=_replica,
        default=[],
        metavar="[NAME=]URL",
        help="model servers whose /metrics to read meanwhile",
    )
    seen.add_argument("--replica-interval", type=_positive, default=DEFAULT_INTERVAL_S, metavar="S", help="how often")


def _add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    defaults = RandomLengths()
    sent = parser.add_argument_group("what is sent")
    sent.add_argument("--dataset-name", choices=("random",), default="random")
    sent.add_argument("--num-prompts", type=_whole(1), default=defaults.prompts)
    sent.add_argument("--seed", type=_whole(0), default=0)
    sent.add_argument(
        "--random-prefix-len", type=_whole(0), default=defaults.prefix_tokens, help="shared by all prompts"
    )
    sent.add_argument("--random-input-len", type=_whole(1), default=defaults.input_tokens, help="after the prefix")
    sent.add_argument("--random-output-len", type=_whole(1), default=defaults.output_tokens)
    sent.add_argument(
        "--random-range-ratio",
        type=_ratio,
        default=defaults.range_ratio,
        metavar="R",
        help="lengths L are uniform in [(1-R)L, (1+R)L], 0 <= R < 1 (default: 0)",
    )
    sent.add_argument(
        "--old-random-range-ratio",
        action="store_true",
        help="(ours) R means what it did before April 2025: uniform in [R*L, L]",
    )


def _load(given: argparse.Namespace) -> LoadSettings:
    return LoadSettings(
        backend=given.backend,
        api=_APIS[given.backend],
        endpoint=given.endpoint,
        model=given.model,
        served_model_name=given.served_model_name,
        tokenizer=given.tokenizer,
        random=RandomLengths(
            prompts=given.num_prompts,
            prefix_tokens=given.random_prefix_len,
            input_tokens=given.random_input_len,
            output_tokens=given.random_output_len,
            range_ratio=given.random_range_ratio,
            old_range_ratio=given.old_random_range_ratio,
        ),
        pace=Pace(given.max_concurrency, given.request_rate, given.burstiness),
        seed=given.seed,
        ignore_eos=given.ignore_eos,
        temperature=given.temperature,
        logprobs=given.logprobs,
        headers=tuple(given.header),
        show_progress=not given.disable_tqdm,
        replicas=tuple(given.replica_metrics),
        replica_interval_s=given.replica_interval,
    )


def _whole(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"found {value}; allowed is {least} or more")
        return value

    return whole


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"found {text}; allowed is a number above 0, inf among them")
    return value


def _ratio(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"found {text}; allowed is 0 to 1")
    return value


def _percentile(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"found {text}; allowed is 0 to 100")
    return value


def _split(kind: Callable[[str], _T]) -> Callable[[str], tuple[_T, ...]]:
    def split(text: str) -> tuple[_T, ...]:
        try:
            return tuple(kind(part.strip()) for part in text.split(","))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return split


def _replica(text: str) -> Replica:
    try:
        return replica_at(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is NAME=VALUE")
    return key, value


def _goal(text: str) -> tuple[str, float]:
    name, _, value = text.partition(":")
    if name not in ("ttft", "tpot", "e2el"):
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is METRIC:MS with one of ttft, tpot, e2el")
    try:
        return name, _positive(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is METRIC:MS, such as {name}:300") from None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
