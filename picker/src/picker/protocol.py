"""Names in the endpoint picker protocol (version 004) that both sides use: headers, metadata keys and services.

Headers of requests have llm-d's names. The LEGACY names are those of the Gateway API inference extension."""

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

OBJECTIVE = "x-llm-d-inference-objective"
LEGACY_OBJECTIVE = "x-gateway-inference-objective"
"""Header: the name of the request's InferenceObjective."""

FAIRNESS_ID = "x-llm-d-inference-fairness-id"
LEGACY_FAIRNESS_ID = "x-gateway-inference-fairness-id"
"""Header: the flow of the request. Flow control shares capacity fairly between flows."""

MODEL_NAME = "x-gateway-model-name"
"""Header: the model in the request's body. The gateway sets it before it selects the route."""

BASE_MODEL_NAME = "x-gateway-base-model-name"
"""Header: the base model of the model in the request's body, which is the model itself unless it is an adapter."""

MODEL_REWRITE = "x-llm-d-model-name-rewrite"
LEGACY_MODEL_REWRITE = "x-gateway-model-name-rewrite"
"""Header: the servers' name for the request's model. It replaces the targets of InferenceModels and rewrites."""

SLO_TTFT_MS = "x-llm-d-slo-ttft-ms"
LEGACY_SLO_TTFT_MS = "x-slo-ttft-ms"
"""Header: the milliseconds to the first token that the client requests."""

SLO_TPOT_MS = "x-llm-d-slo-tpot-ms"
LEGACY_SLO_TPOT_MS = "x-slo-tpot-ms"
"""Header: the milliseconds between two tokens that the client requests."""

AGENT_SESSIONS = ("x-claude-code-session-id", "x-session-affinity", "session-id", "session_id")
"""Headers: a session's id, as Claude Code, OpenCode and Codex send it. Upstream reads them in this order."""

DROPPED_REASON = "x-llm-d-request-dropped-reason"
"""Response header: why the request was rejected, in llm-d's words."""

POOL_METADATA = "x-inference-pool"
"""gRPC metadata: the pool of the route, as NAMESPACE/NAME with its API group."""

TRACE_METADATA = "traceparent"
"""gRPC metadata and header: the proxy's span (W3C Trace Context)."""
