"""What Envoy's admin interface says, and what else may answer on its port."""

import asyncio

import pytest
from picker.commands.standalone.envoy_process import EnvoyAdmin


@pytest.mark.parametrize(
    "said", [b"", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00 no HTTP/1.1 here\r\n"], ids=["nothing", "HTTP/2"]
)
async def test_a_port_on_which_something_else_answers_is_no_envoy_that_is_ready(said: bytes) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert not await EnvoyAdmin(f"127.0.0.1:{port}").is_ready()
