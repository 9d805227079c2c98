"""Faults that tests of gateways switch on and off."""

import asyncio

import httpx
import pytest
from mock_server import mock_server


@pytest.mark.parametrize(("rate", "status"), [("error_500_rate", 500), ("error_503_rate", 503)])
async def test_errors_come_at_their_rate(rate: str, status: int) -> None:
    async with mock_server(**{rate: 0.5}) as mock:
        statuses = [(await mock.complete(prompt="x", max_tokens=1)).status_code for _ in range(40)]
        assert set(statuses) == {200, status}
        assert 8 <= statuses.count(status) <= 32


async def test_a_stream_breaks_halfway() -> None:
    async with mock_server(cut_stream_rate=1.0, cut_stream_after_events=2) as mock:
        got = bytearray()

        async def ask() -> None:
            body = {"prompt": "x", "max_tokens": 50, "stream": True}
            async with mock.client.stream("POST", "/v1/completions", json=body) as response:
                async for data in response.aiter_bytes():
                    got.extend(data)

        with pytest.raises(httpx.RemoteProtocolError):
            await ask()
        assert got.count(b"data: ") == 2
        await mock.running(0)


async def test_metrics_that_went_stale_show_what_they_showed() -> None:
    async with mock_server() as mock:
        await mock.client.patch("/mock/faults", json={"metrics_stale": True})
        before = (await mock.client.get("/metrics")).text
        await mock.complete(prompt="x", max_tokens=3)
        assert (await mock.client.get("/metrics")).text == before
        await mock.client.delete("/mock/faults")
        assert (await mock.client.get("/metrics")).text != before


async def test_metrics_that_hang_do_not_answer_but_everything_else_does() -> None:
    async with mock_server(metrics_hang=True) as mock:
        with pytest.raises(httpx.ReadTimeout):
            await mock.client.get("/metrics", timeout=0.2)
        assert (await mock.client.get("/health")).status_code == 200


async def test_a_stalled_engine_goes_on_when_it_is_healed() -> None:
    async with mock_server(stalled=True) as mock:
        asked = asyncio.create_task(mock.complete(prompt="x", max_tokens=3))
        await mock.running(1)
        assert not asked.done()
        await mock.client.delete("/mock/faults")
        assert (await asked).json()["usage"]["completion_tokens"] == 3


async def test_a_slow_card_takes_longer_by_its_factor() -> None:
    async with mock_server(slow_factor=3.0) as mock:
        engine = mock.door.replica.engine.engine
        slow = engine.step_time
        await mock.client.delete("/mock/faults")
        assert slow == engine.step_time.scaled(3.0)


@pytest.mark.parametrize("body", [b'{"error_500_rate": 2}', b'{"nonsense": 1}', b"[]", b"{"])
async def test_faults_that_do_not_exist_are_refused_and_change_nothing(body: bytes) -> None:
    async with mock_server() as mock:
        before = (await mock.client.get("/mock/faults")).json()
        response = await mock.client.patch("/mock/faults", content=body)
        assert response.status_code == 400
        assert (await mock.client.get("/mock/faults")).json() == before


async def test_the_mocks_own_routes_are_not_counted() -> None:
    async with mock_server() as mock:
        await mock.client.get("/mock/faults")
        assert "/mock" not in (await mock.client.get("/metrics")).text


async def test_an_engine_that_died_of_a_defect_is_told_and_nobody_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with mock_server() as mock:

        def defect(now_s: float) -> float:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(mock.door.replica.engine.engine, "begin_step", defect)
        assert (await mock.complete(prompt="x", max_tokens=3)).status_code == 500
        assert (await mock.client.get("/health")).status_code == 503
        assert (await mock.complete(prompt="x", max_tokens=3)).status_code == 500
    assert "a defect" in capsys.readouterr().err
