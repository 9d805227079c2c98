"""Service (core API): the fields that are needed to find its model servers."""

from typing import ClassVar, Literal

from pydantic import Field

from picker.resources.wire import Object, Port, Wire


class ServicePort(Wire):
    not_read: ClassVar = frozenset({"appProtocol", "nodePort"})

    name: str | None = None
    port: Port
    target_port: Port | str | None = None
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"


class ServiceSpec(Wire):
    """The gateway connects to the servers behind a Service directly, so other fields are not read."""

    not_read: ClassVar = frozenset(
        {
            "allocateLoadBalancerNodePorts", "clusterIP", "clusterIPs", "externalIPs", "externalName",
            "externalTrafficPolicy", "healthCheckNodePort", "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy",
            "loadBalancerClass", "loadBalancerIP", "loadBalancerSourceRanges", "publishNotReadyAddresses",
            "sessionAffinity", "sessionAffinityConfig", "trafficDistribution", "type",
        }
    )  # fmt: skip

    selector: dict[str, str] = Field(default_factory=dict[str, str])
    ports: tuple[ServicePort, ...] = ()
    """Empty for a headless Service or an ExternalName."""


class Service(Object):
    kind: Literal["Service"]
    spec: ServiceSpec
