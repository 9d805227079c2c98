"""Answers whose model is renamed, of a picker that is killed in their middle, through a real Envoy."""

import asyncio

import pytest
from gateway_parts import GatewayParts, model, pool, route, to_pool
from upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("kills", [False, True])
async def test_an_answer_is_whole_though_its_picker_is_killed_within_the_name(kills: bool) -> None:
    """What the picker had not answered for, Envoy passes on as the server sent it."""
    server = Upstream("a")
    manifests = [
        pool("main"),
        route("main", "main", {"backendRefs": [to_pool("main")]}),
        model("m", "main", "Standard", **{"served-m": 100}),
    ]
    async with GatewayParts({"main": [server]}, ["main"], manifests, picker_apart=True) as gateway:

        async def go_on() -> None:
            await server.waiting.wait()
            await asyncio.sleep(0.2)
            if kills:
                await gateway.kill_picker()
            server.released.set()

        going = asyncio.create_task(go_on())
        answer = await gateway.client.post(gateway.url("main"), content=b'{"model": "m"}', headers={"x-behave": "hold"})
        await going
    name = "served-m" if kills else "m"
    assert answer.text == "".join(f'data: {{"model": "{name}", "n": {n}}}\n\n' for n in range(3))
