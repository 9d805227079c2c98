"""An installed release of the chart."""

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import httpx
from clusters import ROOT, Cluster, CommandFailed
from waits import TIMEOUT_S, until

CHART = ROOT / "charts" / "inference-gateway"
NAME = "inference-gateway"
NAMESPACE = "envoy-gateway-system"
MODEL = "/model/qwen"
PLAIN, PICKED = 8080, 8081
OF_ENVOY = ("-n", NAMESPACE, "-l", "gateway.envoyproxy.io/owning-gateway-name=qwen-inference-gateway")
"""Flags of kubectl that select the objects that Envoy Gateway created for the Gateway."""


@dataclass(slots=True)
class Release:
    """An installation: its cluster, its values and its URLs."""

    cluster: Cluster
    values: Sequence[str]
    """Flags of helm with the values of the installation."""
    urls: dict[int, str] = field(default_factory=dict[int, str])
    """URL by the Gateway's port."""
    first_response_s: float | None = None
    """Seconds from `helm install` to the first response on PICKED."""

    def restrict(self) -> None:
        """Makes the namespaces reject pods outside the restricted Pod Security Standard."""
        with suppress(CommandFailed):
            self.cluster.kubectl("create", "namespace", NAMESPACE)
        for namespace in (NAMESPACE, "default"):
            label = "pod-security.kubernetes.io/enforce=restricted"
            self.cluster.kubectl("label", "--overwrite", "namespace", namespace, label)

    def install(self, *more: str) -> None:
        self.cluster.helm(
            "upgrade", "--install", NAME, str(CHART), "--namespace", NAMESPACE, "--create-namespace",
            *self.values, *more,
        )  # fmt: skip

    def chat(self, port: int, content: str = "Hello", max_tokens: int = 3, **more: object) -> httpx.Response:
        """Sends one chat to a port of the Gateway. Raises httpx.TransportError."""
        headers = {str(key): str(value) for key, value in dict(more.pop("headers", {})).items()}  # type: ignore[arg-type, call-overload]
        body = {
            "model": MODEL,
            "max_completion_tokens": max_tokens,
            "messages": [{"role": "user", "content": content}],
            **more,
        }
        return httpx.post(f"{self.urls[port]}/v1/chat/completions", json=body, headers=headers, timeout=30)

    def chat_status(self, port: int, **more: object) -> int:
        """Returns the status of one chat, or 0 if the connection fails."""
        try:
            return self.chat(port, **more).status_code  # type: ignore[arg-type]
        except httpx.TransportError:
            return 0

    def wait_until_serving(self, port: int, timeout_s: float = TIMEOUT_S) -> None:
        until(lambda: self.chat_status(port) == 200, f"port {port} serves", timeout_s)


@contextmanager
def gateway_urls(cluster: Cluster) -> Iterator[dict[int, str]]:
    """URL by the Gateway's port: mapped by kind, at its own address, or forwarded."""
    if cluster.local_ports is not None:
        yield {port: f"http://127.0.0.1:{local}" for port, local in cluster.local_ports.items()}
        return
    service = envoy_service(cluster)
    if service["spec"]["type"] == "LoadBalancer" and service["status"].get("loadBalancer", {}).get("ingress"):
        address = service["status"]["loadBalancer"]["ingress"][0]
        yield {port: f"http://{address.get('ip') or address['hostname']}:{port}" for port in (PLAIN, PICKED)}
        return
    with forwarded(cluster.kubeconfig, f"service/{service['metadata']['name']}", NAMESPACE, (PLAIN, PICKED)) as ports:
        yield {port: f"http://127.0.0.1:{local}" for port, local in ports.items()}


def envoy_service(cluster: Cluster) -> dict[str, Any]:
    """Waits for the Service that Envoy Gateway creates for the Gateway, and returns it."""
    [service] = until(lambda: cluster.items("services", *OF_ENVOY), "Envoy has a Service")
    return service


@contextmanager
def forwarded(kubeconfig: Path, target: str, namespace: str, ports: Sequence[int]) -> Iterator[dict[int, int]]:
    """Runs `kubectl port-forward`: yields remote port to local port. kubectl exits when a pod resets a connection.

    Raises CommandFailed if kubectl exits before it forwards.
    """
    command = ["kubectl", f"--kubeconfig={kubeconfig}", "port-forward", "--address=127.0.0.1", "-n", namespace, target]
    with NamedTemporaryFile("r") as output:
        process = subprocess.Popen([*command, *(f":{port}" for port in ports)], stdout=output, stderr=subprocess.STDOUT)

        def local_ports() -> list[int]:
            text = Path(output.name).read_text()
            if process.poll() is not None:
                raise CommandFailed(f"{' '.join(command)}\n{text}")
            found = re.findall(r"^Forwarding from 127\.0\.0\.1:(\d+) ", text, re.M)
            return [int(port) for port in found] if len(found) == len(ports) else []

        try:
            yield dict(zip(ports, until(local_ports, f"{target} is forwarded"), strict=True))
        finally:
            process.terminate()
            process.wait()
