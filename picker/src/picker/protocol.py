"""Names in the endpoint picker protocol (version 004) that both sides use: headers, metadata keys and services."""

EXT_PROC_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"

HEALTH_SERVICES = ("", "liveness", "readiness", EXT_PROC_SERVICE)
"""Service names of the gRPC health protocol: the whole server, upstream's `liveness` and `readiness`, and ext_proc."""

DESTINATION = "x-gateway-destination-endpoint"
"""Header and metadata key: `ip:port[,ip:port...]`, best first."""

DESTINATION_SERVED = "x-gateway-destination-endpoint-served"
"""Metadata key: the endpoint that served the request."""

DESTINATION_SUBSET = "x-gateway-destination-endpoint-subset"
"""Metadata key: the endpoints that may be picked."""

LB_NAMESPACE = "envoy.lb"
"""Envoy's metadata namespace of DESTINATION and DESTINATION_SERVED."""

SUBSET_NAMESPACE = "envoy.lb.subset_hint"
"""Envoy's metadata namespace of DESTINATION_SUBSET."""

OBJECTIVE = "x-gateway-inference-objective"
"""Header: the name of the request's InferenceObjective."""

FAIRNESS_ID = "x-gateway-inference-fairness-id"
"""Header: the flow of the request. Flow control shares capacity fairly between flows."""

MODEL_NAME = "x-gateway-model-name"
"""Header: the model in the request's body. The gateway sets it before it selects the route."""

BASE_MODEL_NAME = "x-gateway-base-model-name"
"""Header: the base model of the model in the request's body, which is the model itself unless it is an adapter."""

POOL_METADATA = "x-inference-pool"
"""gRPC metadata: the pool of the route, as NAMESPACE/NAME with its API group."""

TRACE_METADATA = "traceparent"
"""gRPC metadata and header: the proxy's span (W3C Trace Context)."""
