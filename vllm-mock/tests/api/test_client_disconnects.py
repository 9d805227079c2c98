"""A disconnect aborts the client's request."""

import asyncio

import pytest
from mock_server import mock_server


@pytest.mark.parametrize("stream", [True, False])
async def test_a_disconnect_frees_the_requests_blocks(stream: bool) -> None:
    async with mock_server(time_scale=1.0) as mock:
        body = {"prompt": "x" * 400, "max_tokens": 2000, "ignore_eos": True, "stream": stream}
        completion = asyncio.create_task(mock.complete(**body))
        await mock.running(1)
        completion.cancel()
        await mock.running(0)
        assert mock.api_server.replica.engine.engine.scheduler.pool.used == 0
        assert not mock.api_server.busy
        assert await mock.metric('vllm:request_success_total{engine="0",finished_reason="abort"') == 0


async def test_the_load_is_counted_only_while_completions_run() -> None:
    async with mock_server(time_scale=1.0, enable_server_load_tracking=True) as mock:
        completion = asyncio.create_task(mock.complete(prompt="x", max_tokens=2000, ignore_eos=True))
        await mock.running(1)
        assert (await mock.client.get("/load")).json() == {"server_load": 1}
        completion.cancel()
        await mock.running(0)
        assert (await mock.client.get("/load")).json() == {"server_load": 0}


async def test_all_samples_of_a_body_are_aborted_together() -> None:
    async with mock_server(time_scale=1.0) as mock:
        completion = asyncio.create_task(mock.complete(prompt=["a", "b"], n=2, max_tokens=2000, ignore_eos=True))
        await mock.running(4)
        completion.cancel()
        await mock.running(0)
        assert not mock.api_server.busy
