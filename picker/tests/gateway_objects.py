"""Kubernetes objects as YAML, for tests of Envoy's configuration."""

from pathlib import Path

import yaml
from picker.resources.objects import AnyObject, Resources
from picker.resources.parse import Parsed, parse
from picker.xds.config_source import file_source
from picker.xds.translate import EnvoyConfig, TranslateOptions, translate

OPTIONS = TranslateOptions(
    listen_ip="127.0.0.1",
    picker_host="127.0.0.1",
    picker_port=9002,
    eds_target="127.0.0.1:9004",
    route_source=lambda name: file_source(Path("/etc/envoy") / name),
    max_body_bytes=1 << 20,
)


def resources(*texts: str) -> Resources:
    """Parses `texts`, each a YAML file. An invalid object fails the test."""
    objects: list[AnyObject] = []
    for parsed in (result for text in texts for result in parse(text, "test.yaml")):
        assert isinstance(parsed, Parsed), str(parsed)
        objects.append(parsed.object)
    return Resources.of(objects)


def config(*texts: str) -> EnvoyConfig:
    return translate(resources(*texts), OPTIONS)


def gateway(*listeners: dict[str, object], name: str = "gw", namespace: str = "default") -> str:
    """Returns a Gateway with HTTP listeners; each needs a name and a port."""
    return yaml.safe_dump(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "gatewayClassName": "c",
                "listeners": [{"protocol": "HTTP", **listener} for listener in listeners],
            },
        }
    )


def route(*rules: dict[str, object], name: str = "r", namespace: str = "default", **spec: object) -> str:
    """Returns an HTTPRoute of the Gateway `gw`."""
    return yaml.safe_dump(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"parentRefs": [{"name": "gw"}], "rules": list(rules), **spec},
        }
    )


def to_pool(name: str, **more: object) -> dict[str, object]:
    return {"group": "inference.networking.x-k8s.io", "kind": "InferencePool", "name": name, **more}


def to_service(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "port": 80, **more}


def pool(name: str, failure_mode: str = "FailClose") -> str:
    return f"""
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferencePool
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  targetPortNumber: 8000
  extensionRef: {{name: picker, failureMode: {failure_mode}}}
"""


def service(name: str) -> str:
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80}}]
"""


def policy(target: dict[str, object], name: str = "p", **timeout: object) -> str:
    """Returns a BackendTrafficPolicy; `timeout` is its `spec.timeout`."""
    group = {"group": "gateway.networking.k8s.io"}
    return yaml.safe_dump(
        {
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "BackendTrafficPolicy",
            "metadata": {"name": name},
            "spec": {"targetRefs": [group | target], "timeout": timeout},
        }
    )
