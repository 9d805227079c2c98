"""Envoy's admin interface, and other servers on its port."""

import asyncio

import pytest
from picker.commands.standalone.envoy_process import EnvoyAdmin


@pytest.mark.parametrize(
    "response", [b"", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00 no HTTP/1.1 here\r\n"], ids=["nothing", "HTTP/2"]
)
async def test_another_server_on_the_admin_port_is_not_ready(response: bytes) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert not await EnvoyAdmin(f"127.0.0.1:{port}").is_ready()
