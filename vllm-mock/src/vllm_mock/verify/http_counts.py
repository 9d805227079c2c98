"""Compares the `http_*` counters after the requests that the recorder sent to a fresh server."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec

from vllm_mock.settings import ServeSettings
from vllm_mock.verify.exchanges import Json
from vllm_mock.verify.recorded_server import read_server
from vllm_mock.verify.result import Result
from vllm_mock.verify.running_mock import RunningMock, running_mock

_FAMILIES = (
    "http_requests_total{",
    "http_request_size_bytes_count",
    "http_response_size_bytes_count",
    "http_request_duration_highr_seconds_count",
    "http_request_duration_seconds_count",
)
_BODIES: dict[tuple[str, int], Json] = {
    ("/v1/completions", 200): {"prompt": "hello", "max_tokens": 2},
    ("/v1/completions", 404): {"model": "/model/other", "prompt": "hello"},
    ("/v1/completions", 400): {"prompt": "hello", "max_tokens": -1},
    ("/v1/chat/completions", 200): {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2},
    ("/v1/chat/completions", 404): {"model": "/model/other", "messages": []},
    ("/v1/chat/completions", 400): {"messages": []},
    ("/tokenize", 200): {"prompt": "hello"},
    ("/tokenize", 400): {},
    ("/detokenize", 200): {"tokens": [1]},
}
"""Bodies that result in a status. The recorder's own bodies are not recorded."""


def verify_http_counts(folder: Path) -> Iterator[Result]:
    """Yields one result if `folder` has http-metrics.json."""
    file = folder / "http-metrics.json"
    if file.exists():
        record: Json = msgspec.json.decode(file.read_bytes())
        yield Result(file.name, asyncio.run(_difference(record, read_server(folder).settings(file.name))))


async def _difference(record: Json, settings: ServeSettings) -> str | None:
    async with running_mock(settings) as mock:
        for method, path, status in record["sent"]:
            response = await mock.client.request(method, path, json=_BODIES.get((path, status)))
            if response.status_code != status:
                return f"{method} {path} gets {response.status_code}, recorded {status}"
        return _samples_difference(record, await _samples(mock))


async def _samples(mock: RunningMock) -> list[str]:
    page = (await mock.client.get("/metrics")).text
    return [line for line in page.splitlines() if line.startswith(("http_", "vllm:request_success_total"))]


def _samples_difference(record: Json, ours: list[str]) -> str | None:
    counted = [line for line in ours if line.startswith(_FAMILIES)]
    if counted != record["samples"]:
        other = next(
            (line for line in [*record["samples"], *counted] if (line in counted) != (line in record["samples"])),
            "their order",
        )
        return f"{other} differs between the mock and the recording"
    coarse = (line for line in ours if line.startswith("http_request_duration_seconds_bucket"))
    buckets = list(dict.fromkeys(line.partition('le="')[2].partition('"')[0] for line in coarse))
    if buckets != record["duration_buckets"]:
        return f"buckets {buckets}, recorded {record['duration_buckets']}"
    finished = [line for line in ours if line.startswith("vllm:")]
    if finished != record["vllm_request_success"]:
        return f"{finished}, recorded {record['vllm_request_success']}"
    return None
