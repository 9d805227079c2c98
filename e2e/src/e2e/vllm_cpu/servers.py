"""Real vLLM servers on CPUs, as model servers of a local gateway."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from picker.endpoints.prefix_cache.kv_events.subscriber import PORT_LABEL, REPLAY_PORT_LABEL

from e2e.local_gateway import MODEL

BLOCK_TOKENS = 32
"""The smallest block of vLLM's attention on CPUs."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
"""Nothing is downloaded, and no statistics are sent."""

_START_TIMEOUT_S = 300.0
"""Measured on two cores: 75 s at a load of 5, 130 s at a load of 19."""


@dataclass(frozen=True, slots=True)
class VllmFleet:
    """vLLM servers that publish KV events on ports of their own: they share an address.

    A server uses one core for the model, and its HTTP server and scheduler a part of another. Its three processes have
    3.2 GB of resident memory, with the pages that they share counted in each.
    """

    python: Path
    """Of the environment that has vLLM."""
    model: Path
    """Folder of the model. Its weights are random."""
    event_ports: tuple[int, ...]
    """One for each server."""
    replay_ports: tuple[int, ...]
    kv_blocks: int
    """KV cache blocks of each server."""
    cores: tuple[int, ...] = ()
    """The core that each server is bound to. Empty: the scheduler of the system decides."""

    @property
    def replicas(self) -> int:
        return len(self.event_ports)

    @property
    def start_timeout_s(self) -> float:
        return _START_TIMEOUT_S

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            # The endpoint that resets the prefix cache.
            "VLLM_SERVER_DEV_MODE": "1",
            **OFFLINE,
        }

    def command(self, index: int, port: int) -> Sequence[str]:
        pinned = ["taskset", "--cpu-list", str(self.cores[index])] if self.cores else []
        events = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            # vLLM binds an address with * and connects to any other.
            "endpoint": f"tcp://*:{self.event_ports[index]}",
            "replay_endpoint": f"tcp://*:{self.replay_ports[index]}",
        }
        return [
            *pinned, str(self.python), "-m", "vllm.entrypoints.cli.main", "serve", str(self.model),
            "--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port),
            "--load-format", "dummy", "--dtype", "float32", "--enforce-eager",
            "--max-num-seqs", "16", "--max-num-batched-tokens", "2048",
            "--block-size", str(BLOCK_TOKENS), "--num-gpu-blocks-override", str(self.kv_blocks),
            "--kv-events-config", json.dumps(events),
        ]  # fmt: skip

    def labels(self, index: int) -> Mapping[str, str]:
        return {
            PORT_LABEL: str(self.event_ports[index]),
            REPLAY_PORT_LABEL: str(self.replay_ports[index]),
        }
