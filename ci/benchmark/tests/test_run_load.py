"""Sending a load to a real server, and measuring it."""

import asyncio
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from benchmark.load.pace import Pace, arrival_times_s
from benchmark.load.run import Progress, run_load
from benchmark.load.target import Api, Target
from benchmark.workload import Prompt, Workload
from hypothesis import given
from hypothesis import strategies as st
from model_server import ModelServer


def prompts(count: int, output_tokens: int = 5) -> Workload:
    return Workload("test", tuple((Prompt(f"one two {index}", 3, output_tokens),) for index in range(count)))


async def test_every_request_is_measured(server: ModelServer) -> None:
    """Tokens are the server's counts, times are in order, and samples are in the workload's order."""
    server.token_gap_s = 0.002
    result = await run_load(Target(server.url, "m"), prompts(20), Pace(4))
    assert [sample.error for sample in result.samples] == [None] * 20
    for sample in result.samples:
        assert (sample.prompt_tokens, sample.output_tokens, sample.status) == (3, 5, 200)
        assert len(sample.token_times_s) == 5
        assert (np.diff(sample.token_times_s) >= 0).all()
        assert 0.002 <= sample.ttft_s <= sample.latency_s <= sample.ended_s <= result.duration_s
    assert [body["prompt"] for body in sorted(server.bodies, key=lambda body: int(body["prompt"][8:]))] == [
        f"one two {index}" for index in range(20)
    ]


async def test_a_closed_loop_keeps_its_concurrency(server: ModelServer) -> None:
    """The limit is reached and never exceeded. Connections are reused."""
    server.token_gap_s = 0.002
    result = await run_load(Target(server.url, "m"), prompts(30), Pace(6))
    assert server.most_running == 6
    assert len(server.connections) == 6
    assert result.samples[-1].started_s > result.samples[-1].arrived_s == 0


async def test_an_open_loop_sends_at_its_arrival_times(server: ModelServer) -> None:
    server.token_gap_s = 0.05
    pace = Pace(request_rate=100)
    result = await run_load(Target(server.url, "m"), prompts(20, 3), pace, seed=5)
    assert server.most_running > 6
    for sample, due_s in zip(result.samples, arrival_times_s(pace, 20, seed=5), strict=True):
        assert sample.arrived_s == due_s
        assert sample.started_s >= due_s - 0.001


@given(st.floats(0.1, 1000), st.sampled_from([0.2, 1.0, 4.0, math.inf]), st.integers(1, 200), st.integers(0, 99))
def test_arrivals_keep_the_rate_whatever_the_seed(rate: float, burstiness: float, count: int, seed: int) -> None:
    times = arrival_times_s(Pace(None, rate, burstiness), count, seed)
    assert times[-1] == pytest.approx(count / rate)
    assert all(earlier <= later for earlier, later in itertools.pairwise(times))


def test_burstiness_shapes_the_gaps() -> None:
    """In a gamma distribution, the standard deviation of the gaps over their mean is 1 / sqrt(burstiness)."""
    for burstiness in (0.25, 1.0, 4.0):
        gaps = np.diff(arrival_times_s(Pace(None, 10, burstiness), 20_000, 1))
        assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.05)


async def test_a_rejected_request_keeps_the_message_of_the_server(server: ModelServer) -> None:
    server.reject_status = 503
    result = await run_load(Target(server.url, "m"), prompts(3), Pace(1))
    assert {sample.error for sample in result.failed} == {"HTTP status 503: The server is overloaded."}
    assert [sample.status for sample in result.samples] == [503] * 3
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"cut_after": 2}, "closed before the response was complete"),
        ({"end_after": 2}, "ended without [DONE]"),
        ({"error_after": 2}, "EngineCore died."),
        ({"end_after": 0}, "contained no token"),
    ],
)
async def test_a_response_that_breaks_off_is_a_failure(
    server: ModelServer, fault: dict[str, int], message: str
) -> None:
    for name, value in fault.items():
        setattr(server, name, value)
    result = await run_load(Target(server.url, "m"), prompts(3), Pace(2))
    assert len(result.failed) == 3
    assert all(message in (sample.error or "") for sample in result.failed)


async def test_without_a_listener_every_request_fails() -> None:
    result = await run_load(Target("http://127.0.0.1:1", "m"), prompts(3), Pace(1))
    assert len(result.failed) == 3
    assert "no connection to 127.0.0.1:1" in (result.samples[0].error or "")


async def test_a_request_that_times_out_does_not_stop_the_others(server: ModelServer) -> None:
    server.token_gap_s = 30
    result = await run_load(Target(server.url, "m"), prompts(2), Pace(1), timeout_s=0.05)
    assert [sample.error for sample in result.samples] == ["no complete response within 0.05 s"] * 2


async def test_a_server_that_closes_after_every_response_fails_no_request(server: ModelServer) -> None:
    server.close = True
    result = await run_load(Target(server.url, "m"), prompts(6), Pace(2))
    assert not result.failed
    assert len(server.connections) == 6


async def test_a_closed_idle_connection_fails_no_request() -> None:
    """The server closes each connection just after its first response, as when its keep-alive timeout ends."""
    answer = b'data: {"choices":[{"text":"x"}]}\n\ndata: [DONE]\n\n'

    async def serve_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(answer), answer))
        await writer.drain()
        # The next request is in transit when the connection closes.
        await reader.read(1)
        writer.transport.abort()

    listener = await asyncio.start_server(serve_once, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        workload = replace(prompts(3), ignore_eos=False)
        result = await run_load(Target(f"http://127.0.0.1:{port}", "m"), workload, Pace(1))
    assert [sample.error for sample in result.samples] == [None] * 3


@pytest.mark.parametrize("reply", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"])
async def test_a_reply_that_is_no_http_is_a_failure(reply: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        result = await run_load(Target(f"http://127.0.0.1:{port}", "m"), prompts(1), Pace(1))
    assert "not HTTP" in (result.samples[0].error or "")


async def test_without_usage_tokens_are_counted_by_event(server: ModelServer) -> None:
    server.usage = False
    (sample,) = (await run_load(Target(server.url, "m"), prompts(1, 7), Pace(1))).samples
    assert (sample.output_tokens, sample.prompt_tokens) == (7, 3)


async def test_each_turn_is_sent_with_all_previous_turns(server: ModelServer) -> None:
    turns = (Prompt("Hello.", 1, 2), Prompt(" And?", 1, 1), Prompt(" So?", 1, 1))
    result = await run_load(Target(server.url, "m"), Workload("talk", (turns,)), Pace(1))
    assert [body["prompt"] for body in server.bodies] == [
        "Hello.",
        "Hello. t0 t1 And?",
        "Hello. t0 t1 And? t0 So?",
    ]
    assert [sample.error for sample in result.samples] == [None] * 3


async def test_a_chat_sends_previous_turns_as_messages(server: ModelServer) -> None:
    turns = (Prompt("Hello.", 1, 2), Prompt("And?", 1, 1))
    await run_load(Target(server.url, "m", api=Api.CHAT), Workload("talk", (turns,)), Pace(1))
    assert [message["content"][0]["text"] for message in server.bodies[1]["messages"]] == ["Hello.", " t0 t1", "And?"]


async def test_a_conversation_ends_at_its_first_failure(server: ModelServer) -> None:
    server.reject_status = 500
    turns = (Prompt("Hello.", 1, 2), Prompt("And?", 1, 1))
    result = await run_load(Target(server.url, "m"), Workload("talk", (turns, turns)), Pace(1))
    assert len(result.samples) == len(server.bodies) == 2


async def test_progress_is_reported_after_every_request(server: ModelServer) -> None:
    reports: list[Progress] = []
    await run_load(Target(server.url, "m"), prompts(3), Pace(1), on_progress=reports.append)
    assert reports == [Progress(3, done, 0, 5 * done) for done in (1, 2, 3)]


async def test_cancelling_a_run_closes_its_requests(server: ModelServer) -> None:
    server.token_gap_s = 0.01
    run = asyncio.create_task(run_load(Target(server.url, "m"), prompts(4, 100_000), Pace(4)))
    await server.until_running(4)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await server.until_running(0)
