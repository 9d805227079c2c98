"""What the picker hears of first tokens, from vLLM mocks' metrics alone, behind a real Envoy."""

import asyncio
from contextlib import suppress

import httpx
import pytest
from e2e.local_gateway import MODEL, LocalGateway, MockFleet
from waiting import eventually

ASKS = {"x-inference-gateway-predict-ttft": "1"}
PREDICTED = "x-inference-gateway-predicted-ttft-ms"
PROMPT = "word " * 2000


def completion(number: int, **more: object) -> dict[str, object]:
    """Each with a prompt of its own."""
    return {"model": MODEL, "prompt": f"{number} {PROMPT}", "max_tokens": 2, **more}


@pytest.mark.timeout(120)
async def test_prompts_are_known_to_be_computed_while_their_answers_run_and_times_are_foretold() -> None:
    async with (
        LocalGateway([MockFleet(replicas=1, time_scale=0.2)], picker_arguments=["--predict-ttft"]) as gateway,
        httpx.AsyncClient(timeout=60.0) as client,
    ):
        url = f"{gateway.picked_url}/v1/completions"

        async def in_flight() -> tuple[int, int]:
            [state] = (await client.get(f"{gateway.admin_url}/endpoints")).json()
            return state["in_flight_requests"], state["in_flight_prefill_tokens"]

        async def long_answer() -> None:
            body = completion(0, max_tokens=4000, stream=True, ignore_eos=True)
            async with client.stream("POST", url, json=body) as answer:
                async for _ in answer.aiter_bytes():
                    pass

        first = await client.post(url, json=completion(1), headers=ASKS)
        assert first.status_code == 200
        assert PREDICTED not in first.headers, "nothing is known yet"

        answering = asyncio.create_task(long_answer())

        async def computed() -> bool:
            return await in_flight() == (1, 0)

        await eventually(computed, "the prompt weighs on though its answer runs", 30.0)
        assert not answering.done()
        answering.cancel()
        with suppress(asyncio.CancelledError):
            await answering

        foretold: list[float] = []

        async def is_foretold() -> bool:
            answer = await client.post(url, json=completion(2 + len(foretold)), headers=ASKS)
            assert answer.status_code == 200
            foretold.extend(float(each) for name, each in answer.headers.items() if name == PREDICTED)
            return bool(foretold)

        await eventually(is_foretold, "no time is foretold", 30.0)
        # Two thousand tokens at 0.2 ms each, a fifth of that by the scale, and what goes on besides on a busy machine.
        assert 20 < foretold[0] < 10_000
