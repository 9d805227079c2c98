"""The settings that both commands take: what to send, how fast, and whom to watch."""

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
    """What both commands take: what to send, and how fast."""

    backend: str
    api: Api
    endpoint: str | None
    model: str | None
    """A name or a folder; None: the first that the server lists."""
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
    """Add them in groups, with help."""
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
    server.add_argument("--header", nargs="*", type=pair, default=[], metavar="KEY=VALUE", help="sent with requests")
    server.add_argument("--temperature", type=float, help="(default: the server's)")
    server.add_argument("--logprobs", type=int, help="log probabilities to ask for, a token")
    add_dataset_flags(parser)
    pace = parser.add_argument_group("how fast")
    pace.add_argument("--max-concurrency", type=whole(1), help="requests at a time (default: no bound)")
    pace.add_argument("--request-rate", type=positive, default=math.inf, help="requests a second (default: inf)")
    pace.add_argument("--burstiness", type=positive, default=1.0, help="1: Poisson; less: burstier (default: 1)")
    pace.add_argument("--num-warmups", type=whole(0), default=0, help="requests that come before and are not counted")
    pace.add_argument("--disable-tqdm", action="store_true", help="show no progress")
    seen = parser.add_argument_group("watching the replicas (ours)")
    seen.add_argument(
        "--replica-metrics",
        nargs="+",
        action="extend",
        type=replica,
        default=[],
        metavar="[NAME=]URL",
        help="model servers whose /metrics to read meanwhile",
    )
    seen.add_argument("--replica-interval", type=positive, default=DEFAULT_INTERVAL_S, metavar="S", help="how often")


def read_load(parser: argparse.ArgumentParser, given: argparse.Namespace) -> LoadSettings:
    """From what the parser has read. Exits as argparse does when flags do not fit each other."""
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
