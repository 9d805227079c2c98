"""Objects that tests add to a release: model servers of their own, pools, and routes to them."""

from collections.abc import Mapping, Sequence
from typing import Any

from clusters import Cluster
from releases import MODEL

V1, V1ALPHA2 = "inference.networking.k8s.io", "inference.networking.x-k8s.io"
PICKER = "inference-gateway-ext-proc"
MOCK = "docker.io/inference-gateway/vllm-mock:0.1.0"

Object = Mapping[str, Any]

UNPRIVILEGED: Object = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""What the restricted profile wants of a container, which the namespaces enforce."""


def model_servers(name: str, replicas: int = 1, *flags: str) -> Object:
    """A Deployment of mocks labelled `app: NAME`."""
    return deployment(name, [model_server("vllm", 8000, *flags)], replicas)


def model_server(name: str, port: int, *flags: str) -> Object:
    """A container."""
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
    """Of pods labelled `app: NAME`. `more`: of their spec."""
    labels = {"app": name}
    pods = {
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{**each, "securityContext": UNPRIVILEGED} for each in containers],
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
    """A pool of the servers labelled `app: NAME`."""
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
    """For the requests that carry the header `x-test: NAME`, on the port of the pools. Its answers carry `x-route:
    MARK` (or NAME): until it is there, the tutorial's own route answers."""
    rule = {
        # As long a path as the release's own route has: of two as long the one with more headers is taken.
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
    """`with Added(cluster, ...)`: the objects are there, their Deployments ready, until the block ends."""

    def __init__(self, cluster: Cluster, *objects: Object) -> None:
        self._cluster = cluster
        self._objects: Sequence[Object] = objects

    def __enter__(self) -> None:
        self._cluster.apply(self._objects)
        for each in self._objects:
            if each["kind"] == "Deployment":
                self._cluster.rolled_out(each["metadata"]["name"])

    def __exit__(self, *_: object) -> None:
        for each in self._objects:
            kind = each["kind"]
            group = each["apiVersion"].rpartition("/")[0]
            full = f"{kind.lower()}s.{group}" if group else kind
            self._cluster.kubectl("delete", full, each["metadata"]["name"], "--ignore-not-found", "--wait=false")
