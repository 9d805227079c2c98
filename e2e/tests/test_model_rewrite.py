"""Responses with a rewritten model whose picker is killed in the middle, through a real Envoy."""

import asyncio

import pytest
from gateway_parts import GatewayParts, model, pool, route, to_pool
from upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("kills", [False, True])
async def test_a_response_is_complete_if_its_picker_is_killed_within_the_name(kills: bool) -> None:
    """Envoy passes on unchanged what the picker had not returned."""
    server = Upstream("a")
    manifests = [
        pool("main"),
        route("main", "main", {"backendRefs": [to_pool("main")]}),
        model("m", "main", "Standard", **{"served-m": 100}),
    ]
    async with GatewayParts({"main": [server]}, ["main"], manifests, separate_picker=True) as gateway:

        async def finish_response() -> None:
            await server.waiting.wait()
            await asyncio.sleep(0.2)
            if kills:
                await gateway.kill_picker()
            server.released.set()

        finishing = asyncio.create_task(finish_response())
        answer = await gateway.client.post(gateway.url("main"), content=b'{"model": "m"}', headers={"x-behave": "hold"})
        await finishing
    name = "served-m" if kills else "m"
    assert answer.text == "".join(f'data: {{"model": "{name}", "n": {n}}}\n\n' for n in range(3))
