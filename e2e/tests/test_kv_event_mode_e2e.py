"""Accuracy of the prefix index with KV events, compared with the estimated one."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean

import httpx
import pytest
import yaml
from e2e.prefix_accuracy import Workload, outcome, words
from e2e.processes import LoggedChild, free_ports
from gateway_parts import pool
from picker.commands.serve import Picker
from picker.endpoints.prefix_cache.kv_events.subscriber import PORT_LABEL, REPLAY_PORT_LABEL
from picker.rejection import Rejection
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import PickRequest, RequestInfo
from picker.requestcontrol.request_body import read_body
from picker.settings import ServeSettings
from picker.sources.folder import FolderSource
from waiting import until

REPLICAS = 2
BLOCKS = 400
"""KV cache blocks of each server: 6,400 tokens."""
PREFIXES, PREFIX_WORDS = 16, 500
"""About 8,500 tokens in total: more than one server's cache holds, and less than both."""
PATH = "/v1/chat/completions"


@pytest.mark.timeout(240)
def test_kv_events_make_two_pickers_more_accurate_in_virtual_time() -> None:
    """There are more system prompts than all caches hold."""
    workload = Workload(
        "tenants", prefixes=80, prefix_words=900, turns=1, rate=5.0, pause_s=0.0, requests=1000, server_blocks=1500
    )
    estimated, reported = outcome(workload, "estimated"), outcome(workload, "reported")
    assert reported.error < 0.7 * estimated.error, (reported.error, estimated.error)


@dataclass
class Fleet:
    """Mock servers as processes, and two pickers without shared state."""

    ports: Sequence[int]
    pickers: Sequence[Picker]
    client: httpx.AsyncClient

    async def errors(self, rng: Random, requests: int) -> list[float]:
        """Absolute difference between the predicted and the actual cached share of the prompt, by request."""
        prefix_rng = Random(1)
        prefixes = [words(prefix_rng, PREFIX_WORDS) for _ in range(PREFIXES)]
        return [await self._error(rng, rng.choice(prefixes)) for _ in range(requests)]

    async def _error(self, rng: Random, prefix: str) -> float:
        messages = [{"role": "system", "content": prefix}, {"role": "user", "content": words(rng, 20)}]
        body = json.dumps({"model": "qwen", "messages": messages, "max_tokens": 4}).encode()
        read = read_body(body, strict=True)
        assert not isinstance(read, Rejection)
        director = rng.choice(self.pickers).director
        request = director.assign(PickRequest(None, read, None, info=RequestInfo(PATH)))
        assert isinstance(request, InFlightRequest)
        address = request.endpoint.address
        before = await self._hits(address)
        headers = {"content-type": "application/json"}
        answer = await self.client.post(f"http://{address}{PATH}", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        queried, hit = (after - earlier for after, earlier in zip(await self._hits(address), before, strict=True))
        director.ended(request)
        return abs(request.ranking.cached_tokens / request.request.prompt_tokens - hit / queried)

    async def _hits(self, address: str) -> tuple[float, float]:
        page = (await self.client.get(f"http://{address}/metrics")).text
        queries, hits = (
            float(re.findall(rf"^vllm:prefix_cache_{name}_total{{.*}} (\S+)$", page, re.MULTILINE)[0])
            for name in ("queries", "hits")
        )
        return queries, hits


@asynccontextmanager
async def fleet(folder: Path, *more: str) -> AsyncIterator[Fleet]:
    """Starts the mocks and both pickers. `more`: further settings of the pickers."""
    ports, event_ports, replay_ports = free_ports(REPLICAS), free_ports(REPLICAS), free_ports(REPLICAS)
    (folder / "m").mkdir(parents=True)
    (folder / "m" / "pool.yaml").write_text(yaml.safe_dump(pool("qwen", strategy="PREFIX_CACHE")))
    servers = [
        {
            "name": f"qwen-{number}",
            "address": "127.0.0.1",
            "port": ports[number],
            "labels": {
                "pool": "qwen",
                PORT_LABEL: str(event_ports[number]),
                REPLAY_PORT_LABEL: str(replay_ports[number]),
            },
        }
        for number in range(REPLICAS)
    ]
    (folder / "endpoints.yaml").write_text(yaml.safe_dump({"endpoints": servers}))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=20))
        for number in range(REPLICAS):
            events = {
                "enable_kv_cache_events": True,
                "endpoint": f"tcp://*:{event_ports[number]}",
                "replay_endpoint": f"tcp://*:{replay_ports[number]}",
            }
            command = [
                *(sys.executable, "-m", "vllm_mock.cli", "serve", f"--port={ports[number]}", "--host=127.0.0.1"),
                *("--served-model-name=qwen", "--tokenizer=approximate", "--step-floor-s=0.001"),
                *(f"--num-gpu-blocks-override={BLOCKS}", f"--kv-events-config={json.dumps(events)}"),
            ]
            server = await LoggedChild.start(f"mock {number}", command, folder / f"mock-{number}.log")
            stack.push_async_callback(server.stop)
            await until(lambda up=folder / f"mock-{number}.log": "serving" in up.read_text(), "the mock serves", 30)
        pickers = [await stack.enter_async_context(picker(folder, *more)) for _ in range(2)]
        yield Fleet(ports, pickers, client)


@asynccontextmanager
async def picker(folder: Path, *more: str) -> AsyncIterator[Picker]:
    names = ("ext-proc", "health", "xds", "admin")
    addresses = [f"--{name}-address=127.0.0.1:{port}" for name, port in zip(names, free_ports(4), strict=True)]
    settings = ServeSettings.read(
        [f"--manifests={folder / 'm'}", f"--endpoints={folder / 'endpoints.yaml'}", *addresses, *more], "test"
    )
    made, stop = Picker(settings, FolderSource(folder / "m", folder / "endpoints.yaml")), asyncio.Event()
    serving = asyncio.create_task(made.run(stop))
    try:
        await until(lambda: made.ready or serving.done(), "the picker is ready")
        yield made
    finally:
        stop.set()
        await serving


@pytest.mark.bench
@pytest.mark.timeout(240)
async def test_kv_events_make_two_pickers_more_accurate_over_zeromq(tmp_path: Path) -> None:
    """Compares predictions with the servers' own counters, in real time.

    Events and tokenization run beside the requests, so the result depends on the machine's load.
    """
    async with fleet(tmp_path / "estimated") as estimating:
        estimated = await estimating.errors(Random(2), 100)
    async with fleet(tmp_path / "reported", "--kv-events-port=5557") as reporting:
        reported = await reporting.errors(Random(2), 100)
    assert fmean(reported[50:]) < 0.65 * fmean(estimated[50:]), (fmean(reported[50:]), fmean(estimated[50:]))
