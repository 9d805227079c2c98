"""The settings of both commands: server, workload, pace, and replicas to watch."""

import argparse
import math
from dataclasses import dataclass

from benchmark.load.pace import Pace
from benchmark.load.target import Api
from benchmark.replicas.watch import DEFAULT_INTERVAL_S, Replica
from benchmark.settings.datasets import Dataset, add_dataset_flags, read_dataset
from benchmark.settings.values import pair, positive, replica, whole


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """The settings that both commands have."""

    backend: str
    api: Api
    endpoint: str | None
    model: str | None
    """A name or a folder; None means the first model that the server lists."""
    served_model_name: str | None
    tokenizer: str | None
    dataset: Dataset
    pace: Pace
    warmups: int
    seed: int
    temperature: float | None
    logprobs: int | None
    headers: tuple[tuple[str, str], ...]
    show_progress: bool
    replicas: tuple[Replica, ...]
    replica_interval_s: float


_APIS = {"vllm": Api.COMPLETIONS, "openai": Api.COMPLETIONS, "openai-chat": Api.CHAT}


def add_load_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of both commands, in groups."""
    server = parser.add_argument_group("server")
    server.add_argument(
        "--backend", choices=tuple(_APIS), default="vllm", help="openai-chat sends chat requests (default: vllm)"
    )
    server.add_argument("--endpoint", help="path (default: /v1/completions, or /v1/chat/completions of openai-chat)")
    server.add_argument("--model", help="name or folder of the model (default: the first that the server lists)")
    server.add_argument("--served-model-name", help="the model's name at the server, if it differs")
    server.add_argument("--tokenizer", help="folder with a tokenizer.json (default: --model, else the Qwen vocabulary)")
    server.add_argument("--tokenizer-mode", choices=("auto",), default="auto", help="accepted; there is one mode")
    server.add_argument("--trust-remote-code", action="store_true", help="accepted; code of a model is never run")
    server.add_argument("--header", nargs="*", type=pair, default=[], metavar="KEY=VALUE", help="sent with requests")
    server.add_argument("--temperature", type=float, help="(default: the server's)")
    server.add_argument("--logprobs", type=int, help="log probabilities to request for each token")
    add_dataset_flags(parser)
    pace = parser.add_argument_group("pace")
    pace.add_argument("--max-concurrency", type=whole(1), help="most concurrent requests (default: no limit)")
    pace.add_argument("--request-rate", type=positive, default=math.inf, help="requests per second (default: inf)")
    pace.add_argument("--burstiness", type=positive, default=1.0, help="1: Poisson; less: burstier (default: 1)")
    pace.add_argument("--num-warmups", type=whole(0), default=0, help="requests sent first, which are not measured")
    pace.add_argument("--disable-tqdm", action="store_true", help="show no progress")
    watch = parser.add_argument_group("replicas (own flags)")
    watch.add_argument(
        "--replica-metrics",
        nargs="+",
        action="extend",
        type=replica,
        default=[],
        metavar="[NAME=]URL",
        help="model servers whose /metrics are sampled during the run",
    )
    watch.add_argument(
        "--replica-interval", type=positive, default=DEFAULT_INTERVAL_S, metavar="S", help="seconds between samples"
    )


def read_load(parser: argparse.ArgumentParser, given: argparse.Namespace) -> LoadSettings:
    """The settings from parsed flags. As argparse, exits 2 if flags exclude each other."""
    return LoadSettings(
        backend=given.backend,
        api=_APIS[given.backend],
        endpoint=given.endpoint,
        model=given.model,
        served_model_name=given.served_model_name,
        tokenizer=given.tokenizer,
        dataset=read_dataset(parser, given),
        pace=Pace(given.max_concurrency, given.request_rate, given.burstiness),
        warmups=given.num_warmups,
        seed=given.seed,
        temperature=given.temperature,
        logprobs=given.logprobs,
        headers=tuple(given.header),
        show_progress=not given.disable_tqdm,
        replicas=tuple(given.replica_metrics),
        replica_interval_s=given.replica_interval,
    )
