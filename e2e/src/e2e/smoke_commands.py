"""The tutorial's curl commands: as text for the user, and as requests of the demo and the tests."""

import json

import httpx

from e2e.local_gateway import MODEL

PATH = "/v1/chat/completions"
TIMEOUT_S = 60.0


class CurlFailed(Exception):
    """A port did not respond with 200."""


def body(city: str) -> dict[str, object]:
    """The body of the tutorial's request."""
    return {
        "model": MODEL,
        "max_completion_tokens": 100,
        "temperature": 0,
        "messages": [{"role": "user", "content": f"Write as if you were a critic: {city}"}],
    }


def curl_command(port: int, city: str, host: str = "localhost") -> str:
    """The curl command line."""
    return (
        f"curl -X POST {host}:{port}{PATH} -H 'Content-Type: application/json' -d '{json.dumps(body(city), indent=1)}'"
    ).replace("\n", "\n  ")


async def post_chat(base_url: str, city: str) -> str:
    """Sends the request and returns the response as indented JSON. Raises CurlFailed, httpx.TransportError."""
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        answer = await client.post(base_url + PATH, json=body(city))
    if answer.status_code != 200:
        raise CurlFailed(f"{base_url}{PATH} responded with {answer.status_code}: {answer.text}")
    return json.dumps(answer.json(), indent=2, ensure_ascii=False)
