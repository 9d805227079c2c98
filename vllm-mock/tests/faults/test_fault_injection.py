"""Fault injection."""

import asyncio

import httpx
import pytest
from mock_server import mock_server


@pytest.mark.parametrize(("rate", "status"), [("error_500_rate", 500), ("error_503_rate", 503)])
async def test_errors_occur_at_their_rate(rate: str, status: int) -> None:
    async with mock_server(**{rate: 0.5}) as mock:
        statuses = [(await mock.complete(prompt="x", max_tokens=1)).status_code for _ in range(40)]
        assert set(statuses) == {200, status}
        assert 8 <= statuses.count(status) <= 32


async def test_a_cut_stream_ends_after_its_number_of_events() -> None:
    async with mock_server(cut_stream_rate=1.0, cut_stream_after_events=2) as mock:
        received = bytearray()

        async def complete() -> None:
            body = {"prompt": "x", "max_tokens": 50, "stream": True}
            async with mock.client.stream("POST", "/v1/completions", json=body) as response:
                async for data in response.aiter_bytes():
                    received.extend(data)

        with pytest.raises(httpx.RemoteProtocolError):
            await complete()
        assert received.count(b"data: ") == 2
        await mock.running(0)


async def test_stale_metrics_show_the_same_page_until_cleared() -> None:
    async with mock_server() as mock:
        await mock.client.patch("/mock/faults", json={"metrics_stale": True})
        before = (await mock.client.get("/metrics")).text
        await mock.complete(prompt="x", max_tokens=3)
        assert (await mock.client.get("/metrics")).text == before
        await mock.client.delete("/mock/faults")
        assert (await mock.client.get("/metrics")).text != before


async def test_hanging_metrics_do_not_affect_other_routes() -> None:
    async with mock_server(metrics_hang=True) as mock:
        with pytest.raises(httpx.ReadTimeout):
            await mock.client.get("/metrics", timeout=0.2)
        assert (await mock.client.get("/health")).status_code == 200


async def test_a_stalled_engine_resumes_when_the_fault_is_cleared() -> None:
    async with mock_server(stalled=True) as mock:
        completion = asyncio.create_task(mock.complete(prompt="x", max_tokens=3))
        await mock.running(1)
        assert not completion.done()
        await mock.client.delete("/mock/faults")
        assert (await completion).json()["usage"]["completion_tokens"] == 3


async def test_slow_factor_multiplies_the_step_time() -> None:
    async with mock_server(slow_factor=3.0) as mock:
        engine = mock.api_server.replica.engine.engine
        slow = engine.step_time
        await mock.client.delete("/mock/faults")
        assert slow == engine.step_time.scaled(3.0)


@pytest.mark.parametrize("body", [b'{"error_500_rate": 2}', b'{"nonsense": 1}', b"[]", b"{"])
async def test_invalid_faults_are_rejected_and_change_nothing(body: bytes) -> None:
    async with mock_server() as mock:
        before = (await mock.client.get("/mock/faults")).json()
        response = await mock.client.patch("/mock/faults", content=body)
        assert response.status_code == 400
        assert (await mock.client.get("/mock/faults")).json() == before


async def test_admin_routes_are_not_counted() -> None:
    async with mock_server() as mock:
        await mock.client.get("/mock/faults")
        assert "/mock" not in (await mock.client.get("/metrics")).text


async def test_a_failed_engine_answers_500_and_is_unhealthy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with mock_server() as mock:

        def defect(now_s: float) -> float:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(mock.api_server.replica.engine.engine, "begin_step", defect)
        assert (await mock.complete(prompt="x", max_tokens=3)).status_code == 500
        assert (await mock.client.get("/health")).status_code == 503
        assert (await mock.complete(prompt="x", max_tokens=3)).status_code == 500
    assert "a defect" in capsys.readouterr().err
