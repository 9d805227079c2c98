"""Objects of the conformance tests: servers with two ranks, an HTTP/2-only proxy, and an independent picker.

The picker implements the endpoint picker protocol and shares no code with this project.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from extra_objects import V1, Object, deployment, model_server, pool

RANKS = (8000, 8001)
H2C_PORT = 8002
PROTOCOL_PICKER = "protocol-picker"
_FILTERS = "type.googleapis.com/envoy.extensions.filters"


def image_of(pod: Mapping[str, Any], container: str) -> str:
    """The image of a pod's container."""
    return next(entry["image"] for entry in pod["spec"]["containers"] if entry["name"] == container)


def servers_with_ranks(name: str, proxy_image: str, replicas: int) -> Object:
    """A Deployment with a server on each port of RANKS, and a proxy to the first of them on H2C_PORT.

    The proxy accepts HTTP/2 without TLS (h2c) and no HTTP/1.1.
    """
    containers = [model_server(f"rank-{port}", port) for port in RANKS]
    h2c_proxy = {
        "name": "h2c-proxy",
        "image": proxy_image,
        "args": ["--config-yaml", yaml.safe_dump(_h2c_proxy(H2C_PORT, RANKS[0])), "--concurrency", "1"],
        "readinessProbe": {"tcpSocket": {"port": H2C_PORT}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
    }
    return deployment(name, [*containers, h2c_proxy], replicas)


def _h2c_proxy(port: int, to: int) -> Object:
    def at(address: str, number: int) -> Object:
        return {"address": {"socket_address": {"address": address, "port_value": number}}}

    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "HTTP2",
        "stat_prefix": "h2c-proxy",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "server", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        **at("0.0.0.0", port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    endpoints = [{"lb_endpoints": [{"endpoint": at("127.0.0.1", to)}]}]
    cluster = {
        "name": "server",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "server", "endpoints": endpoints},
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def protocol_picker(image: str) -> Sequence[Object]:
    """Objects that run `protocol_picker.py`, with its Service as in upstream's chart. `image` holds its packages."""
    metadata = {"name": PROTOCOL_PICKER, "namespace": "default"}
    container = {
        "name": "picker",
        "image": image,
        "command": ["python", "/code/protocol_picker.py"],
        "readinessProbe": {"tcpSocket": {"port": 9002}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
        "volumeMounts": [{"name": "code", "mountPath": "/code"}],
    }
    code = (Path(__file__).parent / "protocol_picker.py").read_text()
    volume = {"name": "code", "configMap": {"name": PROTOCOL_PICKER}}
    port = {"port": 9002, "targetPort": 9002, "protocol": "TCP", "appProtocol": "http2"}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"protocol_picker.py": code}},
        deployment(PROTOCOL_PICKER, [container], volumes=[volume]),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": {"app": PROTOCOL_PICKER}, "ports": [port]},
        },
    ]


def pool_with_ports(
    name: str, of: str, *ports: int, picker: str = PROTOCOL_PICKER, failure_mode: str = "FailClose", **spec: object
) -> Object:
    """A v1 pool of the servers with the label `app: OF`. `spec`: further fields of its spec."""
    made = pool(name, V1, picker, failureMode=failure_mode)
    selector = {"matchLabels": {"app": of}}
    target_ports = [{"number": port} for port in ports]
    return {**made, "spec": {**made["spec"], "selector": selector, "targetPorts": target_ports, **spec}}
