"""Prefill tracking and TTFT prediction from the metrics of vLLM mocks, behind a real Envoy."""

import asyncio
from contextlib import suppress

import httpx
import pytest
from e2e.local_gateway import MODEL, LocalGateway, MockFleet
from waiting import eventually

PREDICT = {"x-inference-gateway-predict-ttft": "1"}
PREDICTED = "x-inference-gateway-predicted-ttft-ms"
PROMPT = "word " * 2000


def completion(number: int, **more: object) -> dict[str, object]:
    """A request whose prompt depends on `number`."""
    return {"model": MODEL, "prompt": f"{number} {PROMPT}", "max_tokens": 2, **more}


@pytest.mark.timeout(120)
async def test_finished_prefills_are_tracked_and_ttft_is_predicted() -> None:
    """A prompt stops counting as pending prefill while its response still runs. Later responses carry a prediction."""
    async with (
        LocalGateway([MockFleet(replicas=1, time_scale=0.2)], picker_arguments=["--predict-ttft"]) as gateway,
        httpx.AsyncClient(timeout=60.0) as client,
    ):
        url = f"{gateway.picked_url}/v1/completions"

        async def in_flight() -> tuple[int, int]:
            [state] = (await client.get(f"{gateway.admin_url}/endpoints")).json()
            return state["in_flight_requests"], state["in_flight_prefill_tokens"]

        async def long_response() -> None:
            body = completion(0, max_tokens=4000, stream=True, ignore_eos=True)
            async with client.stream("POST", url, json=body) as answer:
                async for _ in answer.aiter_bytes():
                    pass

        first = await client.post(url, json=completion(1), headers=PREDICT)
        assert first.status_code == 200
        assert PREDICTED not in first.headers, "no prediction without data"

        responding = asyncio.create_task(long_response())

        async def computed() -> bool:
            return await in_flight() == (1, 0)

        await eventually(computed, "the prompt of the running response is no longer pending", 30.0)
        assert not responding.done()
        responding.cancel()
        with suppress(asyncio.CancelledError):
            await responding

        predicted: list[float] = []

        async def is_predicted() -> bool:
            answer = await client.post(url, json=completion(2 + len(predicted)), headers=PREDICT)
            assert answer.status_code == 200
            predicted.extend(float(value) for name, value in answer.headers.items() if name == PREDICTED)
            return bool(predicted)

        await eventually(is_predicted, "a response has a prediction", 30.0)
        # 2000 tokens take 0.2 ms each in the engine's time. The bounds allow for the time scale and for a busy machine.
        assert 20 < predicted[0] < 10_000
