"""A client that disconnects takes its request with it."""

import asyncio

import pytest
from mock_server import mock_server


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_place(stream: bool) -> None:
    async with mock_server(time_scale=1.0) as mock:
        body = {"prompt": "x" * 400, "max_tokens": 2000, "ignore_eos": True, "stream": stream}
        asked = asyncio.create_task(mock.complete(**body))
        await mock.running(1)
        asked.cancel()
        await mock.running(0)
        assert mock.door.replica.engine.engine.scheduler.pool.used == 0
        assert not mock.door.busy
        assert await mock.metric('vllm:request_success_total{engine="0",finished_reason="abort"') == 0


async def test_the_load_is_counted_only_while_completions_run() -> None:
    async with mock_server(time_scale=1.0, enable_server_load_tracking=True) as mock:
        asked = asyncio.create_task(mock.complete(prompt="x", max_tokens=2000, ignore_eos=True))
        await mock.running(1)
        assert (await mock.client.get("/load")).json() == {"server_load": 1}
        asked.cancel()
        await mock.running(0)
        assert (await mock.client.get("/load")).json() == {"server_load": 0}


async def test_all_samples_of_a_body_are_aborted_together() -> None:
    async with mock_server(time_scale=1.0) as mock:
        asked = asyncio.create_task(mock.complete(prompt=["a", "b"], n=2, max_tokens=2000, ignore_eos=True))
        await mock.running(4)
        asked.cancel()
        await mock.running(0)
