"""A Prometheus process that scrapes a gateway on this machine and evaluates the project's rules."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import yaml
from e2e.local_gateway import LocalGateway
from e2e.processes import LoggedChild, free_ports
from waiting import eventually

RULES = Path(__file__).parents[2] / "charts" / "inference-gateway" / "files" / "alerts" / "inference-gateway.rules.yaml"
INTERVAL_S = 1


@asynccontextmanager
async def prometheus(gateway: LocalGateway) -> AsyncIterator[str]:
    """Starts Prometheus and waits until it is ready. Yields its URL."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    folder = gateway.folder / "prometheus"
    folder.mkdir()
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(_config(gateway)))
    child = await LoggedChild.start(
        "prometheus",
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        folder / "log",
    )
    try:
        async with httpx.AsyncClient() as client:

            async def ready() -> bool:
                child.check()
                try:
                    return (await client.get(f"{url}/-/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(ready, "Prometheus is ready", 20.0)
        yield url
    finally:
        await child.stop()


def _config(gateway: LocalGateway) -> Mapping[str, object]:
    """Scrape configuration. Targets have the labels that discovery on Kubernetes adds."""
    mocks = [_target(url, f"qwen-{number}") for number, url in enumerate(gateway.mock_urls)]
    return {
        "global": {"scrape_interval": f"{INTERVAL_S}s", "evaluation_interval": f"{INTERVAL_S}s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            _job("vllm", "/metrics", mocks),
            _job("picker", "/metrics", [_target(gateway.admin_url, "picker")]),
            _job("envoy", "/stats/prometheus", [_target(gateway.envoy_admin_url, "envoy")]),
        ],
    }


def _job(name: str, path: str, targets: Sequence[Mapping[str, object]]) -> Mapping[str, object]:
    return {"job_name": name, "metrics_path": path, "static_configs": list(targets)}


def _target(url: str, pod: str) -> Mapping[str, object]:
    return {"targets": [url.removeprefix("http://")], "labels": {"namespace": "default", "pod": pod}}
