"""Objects that tests add to a release: model servers, pools, and routes to them."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from clusters import Cluster
from releases import MODEL

V1, V1ALPHA2 = "inference.networking.k8s.io", "inference.networking.x-k8s.io"
PICKER = "inference-gateway-ext-proc"
MOCK = "docker.io/inference-gateway/vllm-mock:0.1.0"

Object = Mapping[str, Any]

UNPRIVILEGED: Object = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""What the restricted Pod Security Standard requires of a container; the namespaces enforce it."""


def model_servers(name: str, replicas: int = 1, *flags: str) -> Object:
    """A Deployment of mocks with the label `app: NAME`."""
    return deployment(name, [model_server("vllm", 8000, *flags)], replicas)


def model_server(name: str, port: int, *flags: str) -> Object:
    """A container that runs a mock. `flags`: further flags of `vllm-mock serve`."""
    arguments = ["serve", "/models/any", f"--port={port}", f"--served-model-name={MODEL}", "--tokenizer=approximate"]
    return {
        "name": name,
        "image": MOCK,
        "args": [*arguments, *flags],
        "readinessProbe": {"httpGet": {"path": "/health", "port": port}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"sleep": {"seconds": 2}}},
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
    }


def deployment(name: str, containers: Sequence[Object], replicas: int = 1, **more: Any) -> Object:
    """A Deployment of pods with the label `app: NAME`. `more`: further fields of the pods' spec."""
    labels = {"app": name}
    pods = {
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{**container, "securityContext": UNPRIVILEGED} for container in containers],
        **more,
    }  # fmt: skip
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pods},
        },
    }


def pool(name: str, group: str = V1ALPHA2, picker: str = PICKER, **reference: Any) -> Object:
    """A pool of the servers with the label `app: NAME`. `reference`: further fields of its reference to the picker."""
    if group == V1:
        spec = {
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": picker, "port": {"number": 9002}, **reference},
        }
    else:
        spec = {
            "selector": {"app": name},
            "targetPortNumber": 8000,
            "extensionRef": {"name": picker, **reference},
        }
    version = "v1" if group == V1 else "v1alpha2"
    return {
        "apiVersion": f"{group}/{version}",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def route(name: str, *backends: Object, mark: str | None = None, rules_before: Sequence[Object] = ()) -> Object:
    """A route for requests with the header `x-test: NAME`, on the pools' port.

    Its responses carry `x-route: MARK` (default: NAME). Until the route is in force, the tutorial's own route responds.
    """
    rule = {
        # As long a path as in the release's own route: of two matches of equal length, the one with more headers wins.
        "matches": [
            {
                "path": {"type": "PathPrefix", "value": "/v1/chat/completions"},
                "headers": [{"name": "x-test", "value": name}],
            }
        ],
        "filters": [
            {
                "type": "ResponseHeaderModifier",
                "responseHeaderModifier": {"set": [{"name": "x-route", "value": mark or name}]},
            }
        ],
        "backendRefs": list(backends),
    }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "parentRefs": [{"name": "qwen-inference-gateway", "sectionName": "llm-gw"}],
            "rules": [*rules_before, rule],
        },
    }


def to_pool(name: str, group: str = V1ALPHA2, **more: Any) -> Object:
    return {"group": group, "kind": "InferencePool", "name": name, **more}


def model(name: str, of_pool: str, model_name: str, criticality: str, targets: Mapping[str, int]) -> Object:
    return {
        "apiVersion": f"{V1ALPHA2}/v1alpha2",
        "kind": "InferenceModel",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "modelName": model_name,
            "criticality": criticality,
            "poolRef": {"name": of_pool},
            "targetModels": [{"name": target, "weight": weight} for target, weight in targets.items()],
        },
    }


class Added:
    """`with Added(cluster, ...)`: applies the objects, waits for their Deployments, and deletes all at the end."""

    def __init__(self, cluster: Cluster, *objects: Object) -> None:
        self._cluster = cluster
        self._objects: Sequence[Object] = objects

    def __enter__(self) -> None:
        self._cluster.apply(self._objects)
        for added in self._objects:
            if added["kind"] == "Deployment":
                self._cluster.rolled_out(added["metadata"]["name"])

    def __exit__(self, *_: object) -> None:
        text = yaml.safe_dump_all(self._objects)
        self._cluster.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", stdin=text)
