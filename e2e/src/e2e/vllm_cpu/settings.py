"""Settings of `gateway-vllm`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.settings.values import whole

from e2e.vllm_cpu.load import Load, random_prompts, shared_prefixes


@dataclass(frozen=True, slots=True)
class VllmSettings:
    python: Path
    """Of the environment that has vLLM."""
    servers: int
    kv_blocks: int
    """KV cache blocks of each server."""
    pin: bool
    """Whether each server is bound to a core of its own."""
    loads: tuple[Load, ...]
    prompts: int
    """Requests of a leg."""
    concurrency: int
    rounds: int
    strategy: str | None
    """Routing strategy of the pool. None: the pool's own."""
    kv_events: bool
    """Whether the picker follows the servers' KV events."""
    out: Path
    """Folder for the model, results and logs."""


def read_settings(arguments: Sequence[str]) -> VllmSettings:
    """Parses command-line arguments. Exits 2 with a message on wrong usage."""
    parser = argparse.ArgumentParser(
        "gateway-vllm",
        description="Compares both ports with real vLLM servers on this machine's CPUs. The model is tiny and random: "
        "nothing is downloaded. `make vllm` installs vLLM into an environment of its own.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("out/vllm"), help="folder for the model, results and logs")
    parser.add_argument("--python", type=Path, help="Python that has vLLM (default: OUT/.venv/bin/python)")
    parser.add_argument("--servers", type=whole(1), default=2, help="vLLM servers, of one core and 3.2 GB each")
    parser.add_argument("--kv-blocks", type=whole(1), default=512, help="KV cache blocks of each server, of 32 tokens")
    parser.add_argument("--pin", action="store_true", help="bind each server to a core of its own")
    parser.add_argument("--only", choices=("shared-prefixes", "random"), help="the only load to send")
    parser.add_argument("--prompts", type=whole(1), default=120, help="requests of a load, to each port in each round")
    parser.add_argument("--concurrency", type=whole(1), default=8, help="requests at a time")
    parser.add_argument("--rounds", type=whole(1), default=4, help="rounds, with the ports in turn")
    parser.add_argument("--prefixes", type=whole(1), default=10, help="common prefixes")
    parser.add_argument("--prefix-tokens", type=whole(1), default=1200, help="length of a common prefix")
    parser.add_argument("--output-tokens", type=whole(1), default=32, help="length of an answer")
    parser.add_argument("--strategy", help="routing strategy of the pool")
    parser.add_argument(
        "--kv-events", action=argparse.BooleanOptionalAction, default=True, help="let the picker follow KV events"
    )
    parser.add_argument("--quick", action="store_true", help="one round of 40 requests of each load, as a smoke test")
    given = parser.parse_args(list(arguments))
    loads = (
        shared_prefixes(given.prefixes, given.prefix_tokens, 50, given.output_tokens),
        random_prompts(400, given.output_tokens),
    )
    prompts, rounds = (40, 1) if given.quick else (given.prompts, given.rounds)
    return VllmSettings(
        given.python or given.out / ".venv/bin/python", given.servers, given.kv_blocks, given.pin,
        tuple(load for load in loads if given.only in (None, load.name)),
        prompts, given.concurrency, rounds, given.strategy, given.kv_events, given.out,
    )  # fmt: skip
