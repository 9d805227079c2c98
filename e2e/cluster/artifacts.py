"""Collects artifacts of a failed test: enough to diagnose it without the cluster."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
from clusters import Cluster, CommandFailed
from releases import NAMESPACE, forwarded

KINDS = (
    "pods,deployments,services,events,gatewayclasses,gateways,httproutes,inferencemodels,"
    "inferencepools.inference.networking.x-k8s.io,inferencepools.inference.networking.k8s.io"
)


def collect_artifacts(cluster: Cluster, folder: Path) -> None:
    """Writes objects, events, logs and Envoy's configuration to `folder`. What cannot be read is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "objects.txt", lambda: cluster.kubectl("get", KINDS, "-A", "-o", "wide"))
    _save(folder / "objects.yaml", lambda: cluster.kubectl("get", KINDS, "-A", "-o", "yaml"))
    _save(folder / "events.txt", lambda: cluster.kubectl("get", "events", "-A", "--sort-by=.lastTimestamp"))
    for namespace in ("default", NAMESPACE):
        for name in _pods(cluster, namespace):
            logs = ("logs", "-n", namespace, name, "--all-containers", "--tail=2000")
            _save(folder / f"{name}.log", lambda logs=logs: cluster.kubectl(*logs))
            if name.startswith("envoy-default-"):
                _save(folder / f"{name}.config.json", lambda name=name: _config_dump(cluster, name))


def _pods(cluster: Cluster, namespace: str) -> list[str]:
    """Names of the pods. Empty if the API server fails: an error here must not hide the test's error."""
    with suppress(CommandFailed):
        return [pod["metadata"]["name"] for pod in cluster.items("pods", "-n", namespace)]
    return []


def _save(path: Path, text: Callable[[], str]) -> None:
    with suppress(CommandFailed, OSError, AssertionError, httpx.HTTPError):
        path.write_text(text())


def _config_dump(cluster: Cluster, pod: str) -> str:
    with forwarded(cluster.kubeconfig, f"pod/{pod}", NAMESPACE, [19000]) as ports:
        return httpx.get(f"http://127.0.0.1:{ports[19000]}/config_dump?include_eds", timeout=10).text
