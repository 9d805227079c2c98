"""What the conformance tests add: servers with two ranks and a door that speaks HTTP/2 only, and a picker that knows
the protocol and nothing of this project."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from extra_objects import V1, Object, deployment, model_server, pool

RANKS = (8000, 8001)
DOOR = 8002
PROTOCOL_PICKER = "protocol-picker"
_FILTERS = "type.googleapis.com/envoy.extensions.filters"


def servers_with_ranks(name: str, proxy_image: str, replicas: int) -> Object:
    """A server on each port of RANKS; on DOOR a proxy before the first that takes HTTP/2 without TLS, and no
    HTTP/1.1."""
    containers = [model_server(f"rank-{port}", port) for port in RANKS]
    door = {
        "name": "door",
        "image": proxy_image,
        "args": ["--config-yaml", yaml.safe_dump(_door(DOOR, RANKS[0])), "--concurrency", "1"],
        "readinessProbe": {"tcpSocket": {"port": DOOR}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
    }
    return deployment(name, [*containers, door], replicas)


def _door(port: int, to: int) -> Object:
    def at(address: str, number: int) -> Object:
        return {"address": {"socket_address": {"address": address, "port_value": number}}}

    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "HTTP2",
        "stat_prefix": "door",
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
    """`protocol_picker.py` in a pod, and its Service as upstream's chart writes it. `image`: has its packages."""
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
    """A v1 pool of the servers labelled `app: OF`."""
    made = pool(name, V1, picker, failureMode=failure_mode)
    selector = {"matchLabels": {"app": of}}
    target_ports = [{"number": port} for port in ports]
    return {**made, "spec": {**made["spec"], "selector": selector, "targetPorts": target_ports, **spec}}
