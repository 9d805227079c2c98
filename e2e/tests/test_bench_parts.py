"""The bench's load generator, servers, baseline pickers and arithmetic."""

import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator
from types import ModuleType

import pytest
import pytest_asyncio
from e2e.bench import bare_grpc_picker, constant_picker
from e2e.bench.constant_picker import Connection, Picks
from e2e.bench.environment import baseline_command
from e2e.bench.figures import Figure, Measured, completion, cpu_s, streamed
from e2e.bench.load import Load, post, run_load
from e2e.bench.upstreams import Server, answer_to
from e2e.processes import free_ports
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from picker.grpc_server.framing import MessageReader, framed
from picker.grpc_server.http2 import frames


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(lambda: Server(b"metrics"), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_all_responses_are_counted_and_the_last_body_is_kept(port: int) -> None:
    body = b'{"model": "m"}' * 10_000
    load = await run_load(port, post("/v1/completions", body), clients=4, seconds=0.2)
    assert len(load.latencies_s) > 4
    assert load.errors == 0
    assert load.last_body == answer_to(body)


async def test_each_client_sends_at_least_one_request(port: int) -> None:
    """On a busy machine connecting may take longer than the load lasts."""
    load = await run_load(port, post("/v1/completions", b"{}"), clients=3, seconds=0.0)
    assert (len(load.latencies_s), load.errors) == (3, 0)


async def test_a_chunked_response_ends_with_its_last_chunk(port: int) -> None:
    load = await run_load(port, streamed(), clients=2, seconds=0.2)
    assert len(load.latencies_s) > 2
    assert load.errors == 0


async def test_clients_keep_their_interval(port: int) -> None:
    """Each client sends one request at the start and at most one per interval."""
    numbers = itertools.count()

    def request() -> bytes:
        next(numbers)
        return post("/v1/completions", b"{}")

    load = await run_load(port, request, clients=4, seconds=0.6, every_s=0.2)
    assert 4 <= len(load.latencies_s) == next(numbers) <= 4 * 4


@pytest.mark.parametrize("module", [bare_grpc_picker, constant_picker], ids=["bare", "constant"])
async def test_a_baseline_picker_starts_with_its_command(module: ModuleType) -> None:
    """It accepts connections at its address."""
    [port] = free_ports(1)
    process = await asyncio.create_subprocess_exec(*baseline_command(module, f"127.0.0.1:{port}", ["10.0.0.1:8000"]))
    try:
        async with asyncio.timeout(30):
            while process.returncode is None:
                with contextlib.suppress(ConnectionError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        assert process.returncode is None
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_constant_picker_responds_to_split_messages() -> None:
    """The second reply is the pick."""
    preface = frames.PREFACE + frames.settings_frame({})
    head = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x83")
    messages = framed(b"\x12" * 300) + framed(b"\x22" * 70_000)
    pieces = [messages[at : at + 9_000] for at in range(0, len(messages), 9_000)]
    data = [frames.frame(frames.DATA, 0, 1, piece) for piece in pieces]
    sent = preface + head + b"".join(data) + frames.frame(frames.DATA, frames.END_STREAM, 1)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(Picks(["10.0.0.1:8000"])), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    for start in range(0, len(sent), 7_001):
        writer.write(sent[start : start + 7_001])
        await writer.drain()
    kinds: list[int] = []
    answers = MessageReader()
    replies: list[bytes] = []
    while True:
        high, low, kind, flags, stream_id = frames.read_header(await reader.readexactly(frames.HEADER_BYTES), 0)
        payload = await reader.readexactly(high << 8 | low)
        if stream_id:
            kinds.append(kind)
        if kind == frames.DATA:
            replies += answers.feed(payload)
        if stream_id and flags & frames.END_STREAM and kind == frames.HEADERS:
            break
    writer.close()
    server.close()
    assert kinds == [frames.HEADERS, frames.DATA, frames.DATA, frames.HEADERS]
    fields = [pb.ProcessingResponse.FromString(reply).WhichOneof("response") for reply in replies]
    assert fields == ["request_headers", "request_body"]
    assert b"10.0.0.1:8000" in replies[1]


async def test_other_statuses_and_closed_connections_are_errors() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        load = await run_load(port, post("/v1/completions", b""), clients=1, seconds=5.0)
    assert (load.latencies_s, load.errors) == ((), 2)


def test_a_request_has_the_requested_size() -> None:
    for size in (2_000, 220_000):
        assert abs(len(completion(size)) - size) < 200


def test_percentiles_and_ratios() -> None:
    load = Load(tuple(float(number) for number in range(1, 101)), 0, 10.0, b"")
    assert (load.percentile_s(0.5), load.percentile_s(0.99), load.rate) == (51.0, 100.0, 10.0)
    assert Measured(load, 3.0).cpu_per_request_s(0.1) == 0.02
    assert Figure("f", 1.0, "x", 1.0, "").met
    assert not Figure("f", 1.0, "x", 2.0, "", at_least=True).met
    assert Figure("f", 1.0, "x", None, "").met


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_cpu_time_is_measured() -> None:
    before_s, until_s = cpu_s(os.getpid()), time.process_time() + 0.1
    while time.process_time() < until_s:
        pass
    assert cpu_s(os.getpid()) - before_s > 0.05
