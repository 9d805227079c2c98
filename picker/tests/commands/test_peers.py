"""Two whole pickers that report to each other."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from event_server import free_port, until
from manifests import LOCAL_ENDPOINTS, LOCAL_POOL
from picker.commands.peers import peer_addresses
from picker.commands.serve import Picker
from picker.controller.api_objects import EndpointSlice, read_slice
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import PickRequest
from picker.requestcontrol.request_body import ParsedBody, read_body
from picker.settings import ServeSettings
from picker.sources.folder import FolderSource
from prometheus_client import generate_latest


@asynccontextmanager
async def running(*settings: ServeSettings) -> AsyncIterator[list[Picker]]:
    stop = asyncio.Event()
    pickers: list[Picker] = []
    for each in settings:
        assert each.manifests is not None
        assert each.endpoints is not None
        pickers.append(Picker(each, FolderSource(each.manifests, each.endpoints)))
    async with asyncio.TaskGroup() as tasks:
        for picker in pickers:
            tasks.create_task(picker.run(stop))
        await until(lambda: all(picker.ready for picker in pickers))
        yield pickers
        stop.set()


def pick(picker: Picker) -> InFlightRequest:
    body = read_body(json.dumps({"model": "qwen", "prompt": "hello", "max_tokens": 10}).encode(), strict=True)
    assert isinstance(body, ParsedBody)
    picked = picker.director.assign(PickRequest(None, body, None))
    assert isinstance(picked, InFlightRequest)
    return picked


def metric(picker: Picker, name: str) -> float:
    lines = generate_latest(picker.registry).decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


async def test_pickers_count_each_others_requests(tmp_path: Path) -> None:
    manifests, endpoints = tmp_path / "manifests", tmp_path / "endpoints.yaml"
    manifests.mkdir()
    (manifests / "pool.yaml").write_text(LOCAL_POOL)
    endpoints.write_text(LOCAL_ENDPOINTS)
    ports = (free_port(), free_port())
    names = ("ext-proc", "health", "admin", "xds")
    both = [
        ServeSettings.read(
            [
                *(f"--{name}-address=127.0.0.1:0" for name in names),
                f"--manifests={manifests}",
                f"--endpoints={endpoints}",
                f"--peer-address=127.0.0.1:{own}",
                f"--peers=127.0.0.1:{other}",
                "--drain-s=1",
            ],
            "test",
        )
        for own, other in (ports, ports[::-1])
    ]
    async with running(*both) as (first, second):
        request = pick(first)
        await until(lambda: second.tracker.peers.requests == 1)
        assert metric(second, "inference_gateway_peers") == 1
        assert metric(second, "inference_gateway_peers_in_flight_requests") == 1
        assert metric(second, "inference_gateway_peers_received_bytes_total") > 0
        assert metric(second, "inference_gateway_in_flight_requests") == 0
        assert metric(first, "inference_gateway_in_flight_requests") == 1
        assert sum(each.peers_in_flight_requests for each in second.endpoint_states()) == 1
        assert sum(each.in_flight_requests for each in second.endpoint_states()) == 0
        first.director.ended(request)
        await until(lambda: second.tracker.peers.requests == 0)


async def test_a_picker_without_peers_does_not_import_the_client() -> None:
    """With cryptography and lightkube it takes as long to import as all the rest."""
    code = (
        "import sys, picker.commands.serve; sys.exit(bool({'picker.peers.client', 'lightkube'} & sys.modules.keys()))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


def slice_of(*endpoints: object) -> EndpointSlice:
    return read_slice({"metadata": {"name": "picker-1", "namespace": "ai"}, "endpoints": list(endpoints)})


def test_peers_are_all_pods_of_the_service() -> None:
    """One that is not ready drains, or has just started."""
    slices = [
        slice_of({"addresses": ["10.0.0.1", "10.0.0.9"]}, {"addresses": ["10.0.0.2"], "conditions": {"ready": False}}),
        slice_of({"addresses": ["fd00::1"]}, {"addresses": []}),
    ]
    assert peer_addresses(slices, 9005) == {"10.0.0.1:9005", "10.0.0.2:9005", "[fd00::1]:9005"}


@pytest.mark.parametrize("endpoints", [(), None])
def test_a_service_without_pods_has_no_peers(endpoints: tuple[()] | None) -> None:
    assert peer_addresses([EndpointSlice(endpoints)], 9005) == set()
