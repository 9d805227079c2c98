"""WebSocket upgrades to a pool's servers, through a real Envoy in both body modes."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import pytest_asyncio
from gateway_parts import GatewayParts, pool, route, to_pool
from test_full_duplex import in_full_duplex
from upstream import Received, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Realtime(Upstream):
    """A server that accepts WebSocket upgrades and echoes what it receives."""

    async def _answer(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request.headers.get("upgrade") != "websocket":
            await super()._answer(request, reader, writer)
            return
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n")
        while data := await reader.read(100):
            writer.write(data)


def allowing_upgrades(listeners: str) -> str:
    document = json.loads(listeners)

    def walk(value: object) -> None:
        if isinstance(value, dict):
            found = cast("dict[str, Any]", value)
            if "http_filters" in found:
                found["upgrade_configs"] = [{"upgrade_type": "websocket"}]
            for child in list(found.values()):
                walk(child)
        elif isinstance(value, list):
            for child in cast("list[object]", value):
                walk(child)

    walk(document)
    return json.dumps(document)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["buffered", "full duplex"])
async def gateway(request: pytest.FixtureRequest) -> AsyncIterator[GatewayParts]:
    def amend(listeners: str) -> str:
        return allowing_upgrades(in_full_duplex(listeners) if request.param == "full duplex" else listeners)

    manifests = [pool("main"), route("main", "main", {"backendRefs": [to_pool("main")]})]
    async with GatewayParts({"main": [Realtime("a")]}, ["main"], manifests, amend_listeners=amend) as parts:
        yield parts


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_upgraded_connection_passes_bytes_both_ways(gateway: GatewayParts, method: str) -> None:
    """The request is in flight until the connection closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.ports["main"])
    writer.write(
        f"{method} /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGVzdHRlc3R0ZXN0dGVzdA==\r\n\r\n".encode()
    )
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        for text in (b"hello", b"x" * 70_000):
            writer.write(text)
            assert await reader.readexactly(len(text)) == text
    assert gateway.picker.tracker.total.requests == 1
    writer.close()
    await gateway.nothing_in_flight()


async def test_other_requests_are_served_with_upgrades_enabled(gateway: GatewayParts) -> None:
    answer = await gateway.client.post(gateway.url("main"), content=b'{"model": "m"}')
    assert answer.status_code == 200
