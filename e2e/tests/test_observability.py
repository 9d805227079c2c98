"""Dashboards and rules with a real Prometheus, on a loaded gateway whose mocks have metrics of all vLLM versions."""

import asyncio
import math
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from e2e.local_gateway import MODEL, LocalGateway, MockFleet
from observability.dashboards import DASHBOARDS, VLLM_SERVICE
from observability.drawing.collected import SHORTEST_WINDOW_S
from observability.metric_names import metrics_of
from observability.panels import Panel
from observability.prometheus import Prometheus, Span
from observability.rules import GROUPS
from observability.rules.rule import Recording
from prometheus_client.parser import text_string_to_metric_families
from prometheus_server import INTERVAL_S, prometheus
from waiting import eventually

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus on the PATH"),
]

PROFILES = ("v1-current", "v1-0.10", "v1-0.8", "v0-0.6")
PANELS = [panel for dashboard in DASHBOARDS for panel in dashboard.panels()]
RECORDINGS = [rule for group in GROUPS for rule in group.rules if isinstance(rule, Recording)]
CLIENTS = 6
RENAMED = """
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModel
metadata: {name: chat}
spec:
  modelName: chat
  criticality: Sheddable
  poolRef: {name: vllm-qwen-pool}
  targetModels: [{name: /model/qwen, weight: 1}]
"""
"""A model with a rewrite: Envoy sends the response headers of its requests to the picker."""
SCRAPES = 8
"""Minimum scrapes of each target before the tests start."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A gateway under load, and the Prometheus that scrapes it."""

    gateway: LocalGateway
    prometheus: Prometheus


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched() -> AsyncIterator[Watched]:
    fleet = MockFleet(
        len(PROFILES), arguments=("--enable-lora", "--lora-modules", "sql=/adapters/sql"),
        metrics_profiles=PROFILES,
    )  # fmt: skip
    async with (
        LocalGateway([fleet], picker_arguments=["--flow-control"]) as gateway,
        load(gateway),
        prometheus(gateway) as url,
        Prometheus(url) as client,
    ):
        (gateway.manifests / "renamed.yaml").write_text(RENAMED)
        found = Watched(gateway, client)
        await eventually(lambda: scraped(found), f"every target has been scraped {SCRAPES} times", 30.0)
        yield found


@asynccontextmanager
async def load(gateway: LocalGateway) -> AsyncIterator[None]:
    """Sends requests through both ports until the block ends, some to an adapter and some invalid."""
    async with httpx.AsyncClient(timeout=60.0, limits=httpx.Limits(max_connections=None)) as client:

        async def send(number: int) -> None:
            url, model = ((gateway.plain_url, MODEL), (gateway.picked_url, MODEL), (gateway.picked_url, "chat"))[
                number % 3
            ]
            while True:
                body = {"model": model, "prompt": f"{number} " * 100, "max_tokens": 40}
                await client.post(f"{url}/v1/completions", json=body)

        async def use_adapter() -> None:
            while True:
                for url in gateway.mock_urls:
                    await client.post(f"{url}/v1/completions", json={"model": "sql", "prompt": "a", "max_tokens": 30})

        async def send_invalid() -> None:
            while True:
                await client.post(f"{gateway.picked_url}/v1/completions", content=b"no JSON")
                await asyncio.sleep(0.5)  # the interval between invalid requests

        clients = [
            asyncio.create_task(coroutine) for coroutine in (*map(send, range(CLIENTS)), use_adapter(), send_invalid())
        ]
        try:
            yield
        finally:
            for task in clients:
                task.cancel()
            results = await asyncio.gather(*clients, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results), results


async def scraped(watched: Watched) -> bool:
    """Whether every target has been scraped SCRAPES times."""
    span = Span(time.time(), time.time(), 1.0)
    counts = await watched.prometheus.over("sum_over_time(up[5m])", span, 1.0)
    return len(counts) == len(PROFILES) + 2 and all(count.values[-1] >= SCRAPES for count in counts)


async def values_of(watched: Watched, expression: str) -> list[float]:
    """Values of a query over the last intervals."""
    span = Span(time.time() - 4 * INTERVAL_S, time.time(), 1.0)
    series = await watched.prometheus.over(expression, span, SHORTEST_WINDOW_S)
    return [value for one in series for value in one.values]


NOT_EXPOSED = {"inference_gateway_certificate_expiry_seconds", "inference_gateway_extension_calls_total"}
"""Metrics of certificates and of the extension, which this gateway has not. Other tests check them."""


async def test_every_metric_in_use_is_exposed(watched: Watched) -> None:
    """A mock of some version, the picker or Envoy exposes it."""
    gateway = watched.gateway
    pages = [
        *(f"{url}/metrics" for url in gateway.mock_urls),
        f"{gateway.admin_url}/metrics",
        f"{gateway.envoy_admin_url}/stats/prometheus",
    ]
    exposed: set[str] = set()
    async with httpx.AsyncClient(timeout=10.0) as client:
        for page in pages:
            for family in text_string_to_metric_families((await client.get(page)).text):
                exposed |= {family.name, *(sample.name for sample in family.samples)}
    assert set(metrics_of(DASHBOARDS, GROUPS)) - NOT_EXPOSED <= exposed


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
async def test_every_query_of_a_panel_has_values(watched: Watched, panel: Panel) -> None:
    """The wait raises if a query has no values."""
    for query in panel.queries:

        async def has_values(expression: str = query.expression) -> bool:
            return any(not math.isnan(value) for value in await values_of(watched, expression))

        await eventually(has_values, f"the query has values: {query.expression}", 15.0)


@pytest.mark.parametrize("rule", RECORDINGS, ids=lambda rule: rule.name)
async def test_every_recording_has_values(watched: Watched, rule: Recording) -> None:
    """The wait raises if the rule records no values."""

    async def recorded() -> bool:
        return any(not math.isnan(value) for value in await values_of(watched, rule.name))

    await eventually(recorded, f"the rule records values: {rule.expression}", 15.0)


async def test_replicas_of_all_vllm_versions_are_in_one_service(watched: Watched) -> None:
    """A rolling update of vLLM leaves no gap in the dashboard."""
    usage = next(rule for rule in RECORDINGS if rule.name == "replica:vllm_kv_cache_usage:ratio")
    now = Span(time.time(), time.time(), 1.0)
    series = await watched.prometheus.over(usage.name, now, 1.0)
    assert {one.labels["pod"] for one in series} == {f"qwen-{number}" for number in range(len(PROFILES))}


async def test_a_dashboard_is_drawn_with_a_line_in_every_panel(watched: Watched, tmp_path: Path) -> None:
    """`make dashboard`."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "gateway-dashboards"), "draw", "--dashboard", VLLM_SERVICE.uid,
        "--prometheus", watched.prometheus.url, "--last", "30s", "--out", str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    count = len(list(VLLM_SERVICE.panels()))
    assert output.decode().startswith(f"Drew {count} panels of {count}")
    assert (tmp_path / f"{VLLM_SERVICE.uid}.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / f"{VLLM_SERVICE.uid}.html").read_text()
    assert [panel.title for panel in VLLM_SERVICE.panels() if escape(panel.title) not in page] == []
