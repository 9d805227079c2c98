"""The dashboard of the gateway: both ports, the picker, its pools, and rejected requests."""

from observability.panels import Dashboard, Kind, Panel, Row, Unit, Variable, number, panel
from observability.promql import Read, either, mean, quantile, rate, selected
from observability.vllm_names import PREFIX_HITS, PREFIX_QUERIES, TIME_TO_FIRST_TOKEN

_LISTENERS = 'envoy_http_conn_manager_prefix=~"$listener",envoy_http_conn_manager_prefix!~"admin|eg-.*|ready-.*"'
"""Selects the listeners for clients. Envoy also counts requests to its admin pages and probes."""
_CLUSTERS = 'envoy_cluster_name=~"(inferencepool|service|httproute)/.*"'
"""Selects the clusters of model servers: one for each pool, and for each route to a Service."""
_PORT = "envoy_http_conn_manager_prefix"
_PORT_LEGEND = "{{envoy_http_conn_manager_prefix}}"
_CLUSTER_LEGEND = "{{envoy_cluster_name}}"
_POOL = 'pool=~"$pool"'
_ENDPOINT_LEGEND = "{{endpoint}}"

_PORT_NOW: Read = selected(_LISTENERS)
_PORT_RATE: Read = rate(_LISTENERS)
_CLUSTER_NOW: Read = selected(_CLUSTERS)
_CLUSTER_RATE: Read = rate(_CLUSTERS)
_POOL_NOW: Read = selected(_POOL)
_POOL_RATE: Read = rate(_POOL)
_RATE: Read = rate("")

_REQUEST_TIME = ("envoy_http_downstream_rq_time",)
_DECISION_TIME = ("llm_d_epp_scheduler_e2e_duration_seconds",)
_FIRST_BYTE = ("inference_gateway_time_to_first_byte_seconds",)
_REQUEST = ("inference_gateway_request_seconds",)
_REJECTIONS = _POOL_RATE("inference_gateway_rejections_total")
_DECISIONS = _POOL_RATE("inference_gateway_decisions_total")


def _answers(code_class: str) -> str:
    return f'{_LISTENERS},envoy_response_code_class="{code_class}"'


def _of_endpoints(title: str, unit: Unit, metric: str, about: str = "", high: float | None = None) -> Panel:
    """A panel of a metric that every picker scrapes from the same endpoints. The highest value is shown."""
    return panel(
        title,
        unit,
        (f"max by (pool, endpoint) ({_POOL_NOW(metric)})", _ENDPOINT_LEGEND),
        about=about,
        high=high,
    )


def _of_pickers(title: str, unit: Unit, metric: str, about: str = "") -> Panel:
    """A panel of a metric of each endpoint, summed over the pickers, because each counts its own requests."""
    return panel(title, unit, (f"sum by (pool, endpoint) ({_POOL_NOW(metric)})", _ENDPOINT_LEGEND), about=about)


def _queued_by_flow_control(title: str, unit: Unit, metric: str) -> Panel:
    """A panel of a metric of flow control, summed over the pickers. A pool without queued requests has no series, and
    is shown as 0."""
    return panel(
        title,
        unit,
        (
            f"sum by (pool, criticality) ({_POOL_NOW(metric)})"
            f" or on (pool) 0 * max by (pool) ({_POOL_NOW('inference_gateway_pool_strategy_info')})",
            "{{pool}} {{criticality}}",
        ),
        about="Requests that wait until a server has capacity, with `--flow-control`.",
        width=12,
    )


_NOW_ROW: tuple[Panel, ...] = (
    number("Requests", Unit.REQUESTS_PER_S, f"sum({_PORT_RATE('envoy_http_downstream_rq_total')})"),
    number("Open requests", Unit.COUNT, f"sum({_PORT_NOW('envoy_http_downstream_rq_active')})"),
    number("Picked", Unit.REQUESTS_PER_S, f"sum({_DECISIONS})"),
    number("Rejected", Unit.REQUESTS_PER_S, f"sum({_REJECTIONS}) or vector(0)"),
    number("Decision p99", Unit.SECONDS, quantile(0.99, _DECISION_TIME, _RATE)),
    number("Endpoints ready", Unit.COUNT, "sum(max by (name) (llm_d_epp_ready_endpoints))"),
)

_PORTS: tuple[Panel, ...] = (
    panel(
        "Requests of each port",
        Unit.REQUESTS_PER_S,
        (f"sum by ({_PORT}) ({_PORT_RATE('envoy_http_downstream_rq_total')})", _PORT_LEGEND),
    ),
    panel(
        "Open requests of each port",
        Unit.COUNT,
        (f"sum by ({_PORT}) ({_PORT_NOW('envoy_http_downstream_rq_active')})", _PORT_LEGEND),
    ),
    panel(
        "Responses of each port",
        Unit.REQUESTS_PER_S,
        (
            f"sum by ({_PORT}, envoy_response_code_class) ({_PORT_RATE('envoy_http_downstream_rq_xx')}) > 0",
            _PORT_LEGEND + " {{envoy_response_code_class}}xx",
        ),
    ),
    *(
        panel(
            f"Whole request on each port, p{share * 100:g}",
            Unit.SECONDS,
            (f"{quantile(share, _REQUEST_TIME, _PORT_RATE, _PORT)} / 1000", _PORT_LEGEND),
            about="From the request's first byte to the response's last, as Envoy measures it.",
        )
        for share in (0.5, 0.95, 0.99)
    ),
    panel(
        "Failed responses of each port",
        Unit.SHARE,
        (
            f"sum by ({_PORT}) ({rate(_answers('5'))('envoy_http_downstream_rq_xx')})"
            f" / sum by ({_PORT}) ({_PORT_RATE('envoy_http_downstream_rq_completed')})",
            _PORT_LEGEND,
        ),
        about="Share of responses with status 5xx.",
    ),
    panel(
        "Requests cancelled by clients",
        Unit.REQUESTS_PER_S,
        (f"sum by ({_PORT}) ({_PORT_RATE('envoy_http_downstream_rq_rx_reset')})", _PORT_LEGEND),
        about="Requests that clients reset before the end of the response.",
    ),
    panel(
        "Time to first token of the servers",
        Unit.SECONDS,
        *((quantile(share, TIME_TO_FIRST_TOKEN, _RATE), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)),
        about="Both ports use the same servers. The vLLM dashboard shows each replica.",
    ),
)

_SERVERS: tuple[Panel, ...] = (
    panel(
        "Requests at the servers",
        Unit.COUNT,
        (f"sum by (envoy_cluster_name) ({_CLUSTER_NOW('envoy_cluster_upstream_rq_active')})", _CLUSTER_LEGEND),
        about="By Envoy's cluster. Each pool and each route to a Service has one.",
    ),
    panel(
        "Retries",
        Unit.REQUESTS_PER_S,
        (f"sum by (envoy_cluster_name) ({_CLUSTER_RATE('envoy_cluster_upstream_rq_retry')})", _CLUSTER_LEGEND),
        about="Requests sent to the next endpoint of the picker's list.",
    ),
    panel(
        "Failed connections",
        Unit.PER_S,
        (f"sum by (envoy_cluster_name) ({_CLUSTER_RATE('envoy_cluster_upstream_cx_connect_fail')})", _CLUSTER_LEGEND),
    ),
)

_PICKER: tuple[Panel, ...] = (
    panel(
        "Decisions",
        Unit.REQUESTS_PER_S,
        (f"sum by (pool, strategy) ({_DECISIONS})", "{{pool}} {{strategy}}"),
        about="By pool, and by its strategy at the time of the decision.",
        kind=Kind.STACKED,
    ),
    panel(
        "Rejected requests by reason",
        Unit.REQUESTS_PER_S,
        (f"sum by (reason, criticality) ({_REJECTIONS})", "{{reason}} {{criticality}}"),
        about="`saturated`: a sheddable request was shed because the servers were full.",
        kind=Kind.STACKED,
    ),
    panel(
        "Duration of a decision",
        Unit.SECONDS,
        (mean(_DECISION_TIME, _RATE), "mean"),
        (quantile(0.5, _DECISION_TIME, _RATE), "p50"),
        (quantile(0.99, _DECISION_TIME, _RATE), "p99"),
    ),
    panel(
        "Exchanges with the picker",
        Unit.REQUESTS_PER_S,
        (f"sum({_RATE('envoy_http_ext_proc_inference_pool_streams_started')})", "started"),
        (f"sum({_RATE('envoy_http_ext_proc_inference_pool_streams_failed')})", "failed"),
        (f"sum({_RATE('envoy_http_ext_proc_inference_pool_message_timeouts')})", "timed out"),
        (f"sum({_RATE('envoy_http_ext_proc_inference_pool_failure_mode_allowed')})", "continued without it (FailOpen)"),
        about="As Envoy counts them.",
    ),
    panel(
        "Scrapes of the servers",
        Unit.PER_S,
        ("sum by (result) (rate(inference_gateway_scrapes_total[$__rate_interval]))", "{{result}}"),
        kind=Kind.STACKED,
    ),
    panel(
        "Age of the servers' metrics",
        Unit.SECONDS,
        (f"max by (pool, endpoint) ({_POOL_NOW('inference_gateway_endpoint_metrics_age_seconds')})", _ENDPOINT_LEGEND),
        about="Time since the last successful scrape. The picker decides by these metrics.",
    ),
    panel(
        "Changes of the configuration",
        Unit.PER_S,
        ("sum by (result) (rate(inference_gateway_config_changes_total[$__rate_interval]))", "{{result}}"),
    ),
    panel(
        "CPU of each picker",
        Unit.CORES,
        (
            "sum by (pod, instance) (rate(process_cpu_seconds_total[$__rate_interval])"
            " and on (pod, instance) llm_d_epp_info)",
            "{{pod}} {{instance}}",
        ),
        about="A picker runs in one thread, so one core is its limit.",
    ),
    panel(
        "Memory of each picker",
        Unit.BYTES,
        (
            "max by (pod, instance) (process_resident_memory_bytes and on (pod, instance) llm_d_epp_info)",
            "{{pod}} {{instance}}",
        ),
    ),
)

_POOLS: tuple[Panel, ...] = (
    panel(
        "Ready endpoints",
        Unit.COUNT,
        ("max by (name) (llm_d_epp_ready_endpoints)", "{{name}}"),
    ),
    panel(
        "Mean queue of a pool",
        Unit.COUNT,
        ("max by (name) (llm_d_epp_average_queue_size)", "{{name}}"),
    ),
    panel(
        "Mean KV cache utilisation of a pool",
        Unit.SHARE,
        ("max by (name) (llm_d_epp_average_kv_cache_utilization)", "{{name}}"),
        high=1,
    ),
    _of_endpoints(
        "KV cache utilisation as scraped",
        Unit.SHARE,
        "inference_gateway_endpoint_kv_cache_utilization",
        high=1,
    ),
    _of_endpoints("Queue as scraped", Unit.COUNT, "inference_gateway_endpoint_queue_depth"),
    _of_endpoints("Running as scraped", Unit.COUNT, "inference_gateway_endpoint_running_requests"),
    _of_pickers(
        "In-flight requests",
        Unit.COUNT,
        "inference_gateway_in_flight_requests",
        about="Requests that the pickers sent. Requests through the plain port do not count.",
    ),
    _of_pickers("Prompt tokens to prefill", Unit.TOKENS, "inference_gateway_in_flight_prefill_tokens"),
    _of_pickers("Expected tokens to generate", Unit.TOKENS, "inference_gateway_in_flight_decode_tokens"),
    panel(
        "Strategy of a pool",
        Unit.COUNT,
        (f"max by (pool, strategy) ({_POOL_NOW('inference_gateway_pool_strategy_info')})", "{{pool}} {{strategy}}"),
    ),
    panel(
        "Whole request, by pool",
        Unit.SECONDS,
        (quantile(0.5, _REQUEST, _POOL_RATE, "pool"), "{{pool}} p50"),
        (quantile(0.95, _REQUEST, _POOL_RATE, "pool"), "{{pool}} p95"),
    ),
    panel(
        "First byte, by pool",
        Unit.SECONDS,
        (quantile(0.5, _FIRST_BYTE, _POOL_RATE, "pool"), "{{pool}} p50"),
        (quantile(0.95, _FIRST_BYTE, _POOL_RATE, "pool"), "{{pool}} p95"),
        about="From the decision to the response's first byte, of responses whose headers Envoy sends to the picker.",
    ),
)

_FLOW_CONTROL: tuple[Panel, ...] = (
    _queued_by_flow_control("Requests queued by flow control", Unit.COUNT, "inference_gateway_queued_requests"),
    _queued_by_flow_control("Bodies queued by flow control", Unit.BYTES, "inference_gateway_queued_bytes"),
)

_CACHES_AND_MODELS: tuple[Panel, ...] = (
    panel(
        "Prefix cache hits, predicted and measured",
        Unit.SHARE,
        (
            f"sum by (pool) ({_POOL_RATE('inference_gateway_predicted_cached_tokens_total')})"
            f" / sum by (pool) ({_POOL_RATE('inference_gateway_prompt_tokens_total')})",
            "{{pool}} predicted",
        ),
        (
            f"sum({either(PREFIX_HITS, _RATE)}) / sum({either(PREFIX_QUERIES, _RATE)})",
            "servers, measured",
        ),
        about="Share of prompt tokens. The servers also count tokens of the plain port.",
        high=1,
    ),
    panel(
        "Requests of each model",
        Unit.REQUESTS_PER_S,
        (
            'sum by (model_name, target_model_name) (rate(llm_d_epp_request_total{model_name!=""}[$__rate_interval]))',
            "{{model_name}} as {{target_model_name}}",
        ),
        kind=Kind.STACKED,
    ),
    panel(
        "Length of prompts by model, p95",
        Unit.TOKENS,
        (quantile(0.95, ("llm_d_epp_request_input_tokens",), _RATE, "model_name"), "{{model_name}}"),
        about="Lengths are estimated by the picker.",
    ),
)

INFERENCE_GATEWAY = Dashboard(
    uid="inference-gateway",
    title="Inference gateway",
    description="Both ports side by side, the endpoint picker, its pools, and rejected requests.",
    rows=(
        Row("Now", _NOW_ROW),
        Row("Both ports, side by side", _PORTS),
        Row("Between Envoy and the servers", _SERVERS),
        Row("Picker", _PICKER),
        Row("Pools", _POOLS),
        Row("Flow control", _FLOW_CONTROL),
        Row("Caches and models", _CACHES_AND_MODELS),
    ),
    variables=(
        Variable("listener", "Port", "envoy_http_downstream_rq_total", _PORT, excluded="admin|eg-.*|ready-.*"),
        Variable("pool", "Pool", "inference_gateway_pool_strategy_info", "pool"),
    ),
)
