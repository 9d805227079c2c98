"""BackendTrafficPolicy (gateway.envoyproxy.io): timeouts of whole Gateways and routes."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from picker.resources.wire import DnsName, Object, Seconds, Wire


class PolicyTarget(Wire):
    group: Literal["gateway.networking.k8s.io"]
    kind: Literal["Gateway", "HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "UDPRoute"]
    name: DnsName
    section_name: str | None = None


class HTTPTimeout(Wire):
    unsupported_fields: ClassVar = frozenset({"maxStreamDuration"})

    request_timeout: Seconds | None = None
    connection_idle_timeout: Seconds | None = None
    max_connection_duration: Seconds | None = None


class TCPTimeout(Wire):
    connect_timeout: Seconds | None = None


class PolicyTimeout(Wire):
    http: HTTPTimeout = HTTPTimeout()
    tcp: TCPTimeout = TCPTimeout()


class BackendTrafficPolicySpec(Wire):
    unsupported_fields: ClassVar = frozenset(
        {
            "circuitBreaker", "compression", "compressor", "connection", "dns", "faultInjection", "healthCheck",
            "http2", "httpUpgrade", "loadBalancer", "mergeType", "proxyProtocol", "rateLimit", "requestBuffer",
            "responseOverride", "retry", "tcpKeepalive", "telemetry", "useClientProtocol",
        }
    )  # fmt: skip

    target_ref: PolicyTarget | None = None
    target_refs: tuple[PolicyTarget, ...] = Field((), max_length=16)
    timeout: PolicyTimeout = PolicyTimeout()

    @model_validator(mode="after")
    def _has_a_target(self) -> "BackendTrafficPolicySpec":
        if self.target_ref is None and not self.target_refs:
            raise ValueError("one of targetRef and targetRefs is needed")
        return self

    @property
    def targets(self) -> tuple[PolicyTarget, ...]:
        return self.target_refs + ((self.target_ref,) if self.target_ref is not None else ())


class BackendTrafficPolicy(Object):
    kind: Literal["BackendTrafficPolicy"]
    spec: BackendTrafficPolicySpec
