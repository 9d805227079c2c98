"""The manifests with two models, in `picker standalone` with a real Envoy and vLLM mocks."""

import httpx
import pytest
from e2e.local_gateway import ADAPTER, MODEL, MODELS, SECOND_MODEL, LocalGateway, MockFleet


@pytest.mark.timeout(120)
async def test_two_models_and_an_adapter_have_one_address() -> None:
    """Each answers under its name. The list has all of them."""
    lora = ("--enable-lora", "--lora-modules", f"{ADAPTER}=/none")
    first = MockFleet(1, time_scale=20.0, arguments=lora)
    second = MockFleet(1, time_scale=20.0, model=SECOND_MODEL, app="llama")
    async with LocalGateway([first, second], sources=MODELS) as gateway, httpx.AsyncClient(timeout=30.0) as client:
        url = f"{gateway.picked_url}/v1/completions"
        for name in (MODEL, SECOND_MODEL, ADAPTER):
            answer = await client.post(url, json={"prompt": "hi", "max_tokens": 2, "model": name})
            assert (answer.status_code, answer.json().get("model")) == (200, name)
        unknown = await client.post(url, json={"prompt": "hi", "model": "unknown"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        listed = (await client.get(f"{gateway.picked_url}/v1/models")).json()["data"]
        assert [item["id"] for item in listed] == sorted([MODEL, SECOND_MODEL, ADAPTER])
