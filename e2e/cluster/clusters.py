"""A cluster to test on: one of our own that kind makes, or anybody's that a kubeconfig leads to."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pytest_kind.cluster import KindCluster
from waits import until

ROOT = Path(__file__).parents[2]
NODE_PORTS = {8080: 30080, 8081: 30081}
"""Port of the Gateway to the node's port; `ci/kind-values.yaml` of the chart says the same."""


_ETCD_IN_MEMORY = {"kind": "ClusterConfiguration", "etcd": {"local": {"dataDir": "/tmp/etcd"}}}
"""The node's /tmp is memory. On a disk each write of the API server would wait behind the images that are loaded."""


class CommandFailed(Exception):
    """A command that should have succeeded; the message has what it wrote."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What tests do to a cluster they do as a person would: with kubectl and helm."""

    kubeconfig: Path
    local_ports: Mapping[int, int] | None
    """Port of the Gateway to the port on 127.0.0.1 that leads there; None where the Gateway has an address."""

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 120) -> str:
        """The output. Raises CommandFailed."""
        return self._run(["kubectl", *arguments], stdin, timeout_s)

    def helm(self, *arguments: str, timeout_s: float = 300) -> str:
        """The output. Raises CommandFailed."""
        return self._run(["helm", *arguments], None, timeout_s)

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get ... -o json`."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        return self.get(*arguments)["items"]

    def apply(self, objects: str | Sequence[Mapping[str, Any]]) -> None:
        """YAML text, or objects."""
        text = objects if isinstance(objects, str) else yaml.safe_dump_all(objects)
        self.kubectl("apply", "-f", "-", stdin=text)

    def rolled_out(self, deployment: str, namespace: str = "default", timeout_s: int = 240) -> None:
        self.kubectl(
            "rollout", "status", f"deployment/{deployment}", "-n", namespace, f"--timeout={timeout_s}s",
            timeout_s=timeout_s + 10,
        )  # fmt: skip

    def pods(self, selector: str, namespace: str = "default") -> list[str]:
        """Names of the running pods that are not on their way out."""
        return [
            pod["metadata"]["name"]
            for pod in self.items("pods", "-n", namespace, "-l", selector)
            if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] == "Running"
        ]

    def wait_for_pods(self, count: int, selector: str, namespace: str = "default") -> None:
        """Until there are `count`, those on their way out included: they serve until they are gone."""
        until(
            lambda: len(self.items("pods", "-n", namespace, "-l", selector)) == count,
            f"{count} pods with {selector} are there",
        )

    def pod_page(self, pod: str, port: int, path: str, namespace: str = "default") -> str:
        """What a pod answers to GET, through the API server."""
        return self.kubectl("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}")

    def answers(self) -> bool:
        """Whether the API server says that it is ready."""
        return _answers(self.kubeconfig)

    def _run(self, command: list[str], stdin: str | None, timeout_s: float) -> str:
        tool, *arguments = command
        try:
            done = subprocess.run(
                [tool, f"--kubeconfig={self.kubeconfig}", *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                check=True,
                timeout=timeout_s,
            )
        except subprocess.CalledProcessError as error:
            raise CommandFailed(f"{' '.join(command)}\n{error.stdout}{error.stderr}") from None
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{' '.join(command)}: not done after {timeout_s:g} s") from None
        return done.stdout


@contextmanager
def kind_cluster(name: str, image: str, ports: Mapping[int, int], folder: Path, keep: bool) -> Iterator[Cluster]:
    """A cluster whose node ports are mapped to `ports` (of the Gateway to local) on 127.0.0.1, deleted at the end
    unless `keep`. One of the name that is there already is what a killed run has left, and deleted first; with `keep`
    it is used as it is, if it answers."""
    mappings = [
        {"containerPort": NODE_PORTS[port], "hostPort": local, "listenAddress": "127.0.0.1"}
        for port, local in ports.items()
    ]
    config = folder / "kind.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "kind": "Cluster",
                "apiVersion": "kind.x-k8s.io/v1alpha4",
                "nodes": [
                    {
                        "role": "control-plane",
                        "extraPortMappings": mappings,
                        "kubeadmConfigPatches": [yaml.safe_dump(_ETCD_IN_MEMORY)],
                    }
                ],
            }
        )
    )
    # pytest-kind would download tools of 2022 that it does not find.
    tools = {tool: shutil.which(tool) for tool in ("kind", "kubectl", "helm", "docker")}
    if missing := [tool for tool, path in tools.items() if path is None]:
        raise CommandFailed(f"not on the PATH: {', '.join(missing)}")
    kubeconfig = folder / "kubeconfig"
    kind = KindCluster(name, kubeconfig, image, Path(str(tools["kind"])), Path(str(tools["kubectl"])))
    if not (keep and _answers(kubeconfig)):
        kind.delete()
    kind.create(config)
    try:
        yield Cluster(kubeconfig, ports)
    finally:
        if not keep:
            kind.delete()


def _answers(kubeconfig: Path) -> bool:
    if not kubeconfig.exists():
        return False
    question = ["kubectl", f"--kubeconfig={kubeconfig}", "get", "--raw", "/readyz", "--request-timeout=10s"]
    return subprocess.run(question, capture_output=True, check=False).returncode == 0


def load_images(name: str, images: Sequence[str]) -> None:
    subprocess.run(["kind", "load", "docker-image", "--name", name, *images], check=True, capture_output=True)


def build_image(folder: str, image: str) -> None:
    """Raises CommandFailed."""
    command = ["docker", "build", "--network", "host", "--quiet", "-f", f"{folder}/Dockerfile", "-t", image, "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
