"""Settings of the demo."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from benchmark.datasets.random_lengths import RandomLengths, random_workload
from benchmark.datasets.shared_prefix import SharedPrefix, shared_prefix_workload
from benchmark.settings.values import whole
from benchmark.tokens.tokenizer import Tokenizer
from benchmark.workload import Workload

SHARED_PREFIX_PROMPTS = 480
"""Prompts of a round with shared prefixes, even in a short demo.

While one port has its two rounds, the other port's connections have to be idle for well over five seconds. After that
time vLLM closes them, and a request of a plain route at that moment fails.
"""


@dataclass(frozen=True, slots=True)
class Load:
    """A load that both ports get."""

    name: str
    """Prefix of the file names of its plots."""
    about: str
    """Description for the user."""
    workload: Callable[[Tokenizer, int], Workload]
    """Returns the workload for a tokenizer and the seed of a round."""
    concurrency: int
    """Maximum requests at a time."""


@dataclass(frozen=True, slots=True)
class DemoSettings:
    command: Literal["run", "up"]
    replicas: int
    preset: str
    time_scale: float
    kv_blocks: int
    """KV cache blocks of each replica. 0: as many as the card has."""
    out: Path
    loads: tuple[Load, ...]
    rounds: int
    """Rounds of each load. The ports take turns in each."""
    models: bool = False
    """Whether `up` serves two models behind one port."""


def read_settings(arguments: Sequence[str]) -> DemoSettings:
    """Parses command-line arguments. Exits 2 with a message on wrong usage."""
    parser = argparse.ArgumentParser(
        "gateway-demo",
        description="The tutorial's gateway on this machine: vLLM mocks, the picker and a real Envoy, without "
        "Docker or Kubernetes. `run` compares both ports under the same load, `up` keeps the gateway running.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("command", choices=("run", "up"))
    parser.add_argument("--replicas", type=whole(1), default=4, help="model servers")
    parser.add_argument("--preset", choices=("a10", "l20"), default="a10", help="card whose speed the servers simulate")
    parser.add_argument(
        "--time-scale", type=float, default=4.0, help="speed-up over the card, as far as a laptop can stream"
    )
    parser.add_argument(
        "--kv-blocks",
        type=int,
        default=640,
        help="KV cache blocks of each replica: the small load fills the same share as the tutorial's load fills of a "
        "card; 0: as many as the card has",
    )
    parser.add_argument("--prompts", type=whole(1), default=240, help="requests per round of the tutorial's load")
    parser.add_argument(
        "--concurrency", type=whole(1), default=64, help="requests at a time; half as many of long prompts"
    )
    parser.add_argument("--rounds", type=whole(1), default=4, help="rounds of each load, with the ports in turn")
    parser.add_argument(
        "--input-tokens", type=whole(1), default=190, help="mean length of a prompt of the tutorial's load"
    )
    parser.add_argument(
        "--output-tokens", type=whole(1), default=225, help="mean length of a response of the tutorial's load"
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the plots")
    parser.add_argument("--models", action="store_true", help="`up` serves two models behind port 8081")
    parser.add_argument("--quick", action="store_true", help="only two short rounds, as a smoke test")
    given = parser.parse_args(list(arguments))
    if given.models and given.command != "up":
        parser.error("--models is an option of `up`")
    prompts, rounds = (96, 2) if given.quick else (given.prompts, given.rounds)
    tutorial = RandomLengths(
        prompts, prefix_tokens=10, input_tokens=given.input_tokens, output_tokens=given.output_tokens, range_ratio=0.2
    )
    shared_prefix = SharedPrefix(
        SHARED_PREFIX_PROMPTS, prefixes=20, prefix_tokens=1000, suffix_tokens=50, output_tokens=30
    )
    loads = (
        Load(
            "tutorial",
            "The tutorial's load, scaled down: equal servers, and prompts without shared prefixes.",
            partial(random_workload, tutorial),
            given.concurrency,
        ),
        Load(
            "shared-prefixes",
            "Twenty applications: each one's prompts start with its own long instructions. A server's cache holds half "
            "of these.",
            partial(shared_prefix_workload, shared_prefix),
            max(1, given.concurrency // 2),
        ),
    )
    return DemoSettings(
        given.command,
        given.replicas,
        given.preset,
        given.time_scale,
        given.kv_blocks,
        given.out,
        loads,
        rounds,
        given.models,
    )
