"""What the demo can be told."""

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

ALIKE_PROMPTS = 480
"""Of a round of prompts that begin alike, however short the demo: while one port has its two rounds, the other's
connections are idle for well over the five seconds after which vLLM closes them. A plain route that asks just then
loses requests."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent to both ports."""

    name: str
    """Of its pictures."""
    about: str
    """For people."""
    workload: Callable[[Tokenizer, int], Workload]
    """By the seed of the round."""
    concurrency: int
    """Requests at a time."""


@dataclass(frozen=True, slots=True)
class DemoSettings:
    command: Literal["run", "up"]
    replicas: int
    preset: str
    time_scale: float
    kv_blocks: int
    """Of each replica; 0: the card's own."""
    out: Path
    loads: tuple[Load, ...]
    rounds: int
    """Of each load, in which the ports take turns."""


def read_settings(arguments: Sequence[str]) -> DemoSettings:
    """Exits 2 with a word on wrong usage."""
    parser = argparse.ArgumentParser(
        "gateway-demo",
        description="The tutorial's gateway on this machine: vLLM mocks, the picker and a real Envoy, without "
        "Docker or Kubernetes. `run` shows both ports under the same load, `up` leaves the gateway running.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("command", choices=("run", "up"))
    parser.add_argument("--replicas", type=whole(1), default=4, help="model servers")
    parser.add_argument("--preset", choices=("a10", "l20"), default="a10", help="the card whose speed they have")
    parser.add_argument(
        "--time-scale", type=float, default=4.0, help="how many times faster than on the card; what a laptop can stream"
    )
    parser.add_argument(
        "--kv-blocks",
        type=int,
        default=640,
        help="KV cache blocks of each replica, so that the small load fills as much of it as the tutorial's load fills "
        "of a card; 0: the card's own",
    )
    parser.add_argument("--prompts", type=whole(1), default=240, help="requests of a round of the tutorial's load")
    parser.add_argument(
        "--concurrency", type=whole(1), default=64, help="requests at a time; of long prompts half as many"
    )
    parser.add_argument("--rounds", type=whole(1), default=4, help="rounds, in which the ports take turns")
    parser.add_argument(
        "--input-tokens", type=whole(1), default=190, help="mean length of a prompt of the tutorial's load"
    )
    parser.add_argument("--output-tokens", type=whole(1), default=225, help="mean length of an answer there")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="two short rounds: does it run at all?")
    given = parser.parse_args(list(arguments))
    prompts, rounds = (96, 2) if given.quick else (given.prompts, given.rounds)
    tutorial = RandomLengths(
        prompts, prefix_tokens=10, input_tokens=given.input_tokens, output_tokens=given.output_tokens, range_ratio=0.2
    )
    alike = SharedPrefix(ALIKE_PROMPTS, prefixes=20, prefix_tokens=1000, suffix_tokens=50, output_tokens=30)
    loads = (
        Load(
            "tutorial",
            "The tutorial's load in small: equal servers, and prompts that share nothing.",
            partial(random_workload, tutorial),
            given.concurrency,
        ),
        Load(
            "shared-prefixes",
            "Twenty applications, each of whose prompts begin with long instructions of its own. A server has room for "
            "half of these.",
            partial(shared_prefix_workload, alike),
            max(1, given.concurrency // 2),
        ),
    )
    return DemoSettings(
        given.command, given.replicas, given.preset, given.time_scale, given.kv_blocks, given.out, loads, rounds
    )
