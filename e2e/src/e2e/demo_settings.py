"""What the demo can be told."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.settings.values import whole


@dataclass(frozen=True, slots=True)
class Load:
    """The tutorial's load in small: random prompts and answers whose lengths vary, a fixed number at a time."""

    prompts: int
    concurrency: int
    rounds: int
    input_tokens: int
    output_tokens: int
    prefix_tokens: int = 10
    range_ratio: float = 0.2


@dataclass(frozen=True, slots=True)
class DemoSettings:
    command: Literal["run", "up"]
    replicas: int
    preset: str
    time_scale: float
    kv_blocks: int
    """Of each replica; 0: the card's own."""
    out: Path
    load: Load


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
    parser.add_argument("--prompts", type=whole(1), default=240, help="requests of a round, to each port")
    parser.add_argument("--concurrency", type=whole(1), default=64, help="requests at a time")
    parser.add_argument("--rounds", type=whole(1), default=4, help="rounds, in which the ports take turns")
    parser.add_argument("--input-tokens", type=whole(1), default=190, help="mean length of a prompt")
    parser.add_argument("--output-tokens", type=whole(1), default=225, help="mean length of an answer")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the picture")
    parser.add_argument("--quick", action="store_true", help="two short rounds: does it run at all?")
    given = parser.parse_args(list(arguments))
    prompts, rounds = (96, 2) if given.quick else (given.prompts, given.rounds)
    load = Load(prompts, given.concurrency, rounds, given.input_tokens, given.output_tokens)
    return DemoSettings(given.command, given.replicas, given.preset, given.time_scale, given.kv_blocks, given.out, load)
