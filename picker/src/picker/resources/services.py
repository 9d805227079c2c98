"""Service (core API), as far as finding its model servers needs it."""

from typing import Any, Literal

from pydantic import Field

from picker.resources.wire import Object, Port, Wire


class ServicePort(Wire):
    name: str | None = None
    port: Port
    target_port: Port | str | None = None
    protocol: Literal["TCP"] = "TCP"
    app_protocol: str | None = None
    node_port: int | None = None


class ServiceSpec(Wire):
    selector: dict[str, str] = Field(default_factory=dict[str, str])
    ports: tuple[ServicePort, ...] = Field(min_length=1)
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    cluster_ip: str | None = Field(None, validation_alias="clusterIP")
    session_affinity: Any = None
    internal_traffic_policy: Any = None
    ip_families: Any = None
    ip_family_policy: Any = None
    cluster_ips: Any = Field(None, validation_alias="clusterIPs")


class Service(Object):
    kind: Literal["Service"]
    spec: ServiceSpec
