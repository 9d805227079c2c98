"""The mock reproduces the recorded exchanges and behaviours."""

import asyncio
import json
import time
from typing import Any

import pytest
from recordings import FOLDER
from vllm_mock.verify import behaviour_shutdown
from vllm_mock.verify.behaviour import verify_behaviour
from vllm_mock.verify.http import verify_http
from vllm_mock.verify.recorded_server import read_server
from vllm_mock.verify.result import Result

STALL_S = 2.0
"""Longer than the recorded requests last in normal motion."""


def differences(results: list[Result]) -> dict[str, str]:
    assert results
    return {result.file: result.difference for result in results if result.difference is not None}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("part", ["http", "flags/http", "lora/http"])
def test_every_recorded_exchange_is_the_same(part: str) -> None:
    assert differences(list(verify_http(FOLDER, part))) == {}


@pytest.mark.timeout(240)
def test_every_recorded_behaviour_is_the_same() -> None:
    results = list(verify_behaviour(FOLDER))
    assert differences(results) == {}
    assert not [result.file for result in results if result.note], "a behaviour without a scenario"


@pytest.mark.timeout(240)
async def test_a_shutdown_does_not_depend_on_the_clients_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a loaded machine the client may stall while the server's requests go on."""
    name = "sigterm-with-shutdown-timeout"
    records: list[dict[str, Any]] = json.loads((FOLDER / "behaviour-flags.json").read_text())
    (record,) = (record for record in records if record["name"] == name)
    running = behaviour_shutdown._Server.running

    async def stalled(server: Any, count: int) -> None:
        # Time to send the requests, then none to look at them.
        await asyncio.sleep(0.3)
        time.sleep(STALL_S)  # noqa: ASYNC251
        await running(server, count)

    monkeypatch.setattr(behaviour_shutdown._Server, "running", stalled)
    settings = read_server(FOLDER).settings(f"behaviour-flags.json#{name}")
    assert await behaviour_shutdown.SHUTDOWNS[name](record, settings) is None
