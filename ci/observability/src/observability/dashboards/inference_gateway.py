"""The gateway: both ports side by side, the picker, its pools, and who was turned away."""

from observability.panels import Dashboard, Kind, Panel, Row, Unit, Variable, number, panel
from observability.promql import Read, either, mean, quantile, rate, selected
from observability.vllm_names import PREFIX_HITS, PREFIX_QUERIES, TIME_TO_FIRST_TOKEN

_LISTENERS = 'envoy_http_conn_manager_prefix=~"$listener",envoy_http_conn_manager_prefix!~"admin|eg-.*|ready-.*"'
"""Those that clients talk to; Envoy counts its own pages and probes likewise."""
_CLUSTERS = 'envoy_cluster_name=~"(inferencepool|service|httproute)/.*"'
"""Of model servers: what a pool, or a route to a Service, is to Envoy."""
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
_DECISION_TIME = ("inference_extension_scheduler_e2e_duration_seconds",)
_FIRST_BYTE = ("inference_gateway_time_to_first_byte_seconds",)
_REQUEST = ("inference_gateway_request_seconds",)
_REFUSALS = _POOL_RATE("inference_gateway_rejections_total")
_DECISIONS = _POOL_RATE("inference_gateway_decisions_total")


def _answers(code_class: str) -> str:
    return f'{_LISTENERS},envoy_response_code_class="{code_class}"'


def _of_endpoints(title: str, unit: Unit, metric: str, about: str = "", high: float | None = None) -> Panel:
    """Each endpoint's value. Pickers read the same servers, so the newest of them is all there is to see."""
    return panel(
        title,
        unit,
        (f"max by (pool, endpoint) ({_POOL_NOW(metric)})", _ENDPOINT_LEGEND),
        about=about,
        high=high,
    )


def _of_pickers(title: str, unit: Unit, metric: str, about: str = "") -> Panel:
    """Each endpoint's value, over all pickers: each knows of its own requests."""
    return panel(title, unit, (f"sum by (pool, endpoint) ({_POOL_NOW(metric)})", _ENDPOINT_LEGEND), about=about)


def _held(title: str, unit: Unit, metric: str) -> Panel:
    """What flow control holds, over all pickers. Nothing held has no series; the pool's 0 stands for it."""
    return panel(
        title,
        unit,
        (
            f"sum by (pool, criticality) ({_POOL_NOW(metric)})"
            f" or on (pool) 0 * max by (pool) ({_POOL_NOW('inference_gateway_pool_strategy_info')})",
            "{{pool}} {{criticality}}",
        ),
        about="With `--flow-control`, until a server has room.",
        width=12,
    )


_NOW_ROW: tuple[Panel, ...] = (
    number("Requests", Unit.REQUESTS_PER_S, f"sum({_PORT_RATE('envoy_http_downstream_rq_total')})"),
    number("Open requests", Unit.COUNT, f"sum({_PORT_NOW('envoy_http_downstream_rq_active')})"),
    number("Picked", Unit.REQUESTS_PER_S, f"sum({_DECISIONS})"),
    number("Turned away", Unit.REQUESTS_PER_S, f"sum({_REFUSALS}) or vector(0)"),
    number("Decision p99", Unit.SECONDS, quantile(0.99, _DECISION_TIME, _RATE)),
    number("Endpoints ready", Unit.COUNT, "sum(max by (name) (inference_pool_ready_pods))"),
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
        "Answers of each port",
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
            about="From the request's first byte to the answer's last, as Envoy measures it.",
        )
        for share in (0.5, 0.95, 0.99)
    ),
    panel(
        "Failed answers of each port",
        Unit.SHARE,
        (
            f"sum by ({_PORT}) ({rate(_answers('5'))('envoy_http_downstream_rq_xx')})"
            f" / sum by ({_PORT}) ({_PORT_RATE('envoy_http_downstream_rq_completed')})",
            _PORT_LEGEND,
        ),
        about="Share of 5xx among the answers.",
    ),
    panel(
        "Clients that went away",
        Unit.REQUESTS_PER_S,
        (f"sum by ({_PORT}) ({_PORT_RATE('envoy_http_downstream_rq_rx_reset')})", _PORT_LEGEND),
        about="Requests that their clients gave up.",
    ),
    panel(
        "Time to first token of the servers",
        Unit.SECONDS,
        *((quantile(share, TIME_TO_FIRST_TOKEN, _RATE), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)),
        about="Requests of both ports meet in the same servers; the vLLM dashboard has the replicas.",
    ),
)

_SERVERS: tuple[Panel, ...] = (
    panel(
        "Requests at the servers",
        Unit.COUNT,
        (f"sum by (envoy_cluster_name) ({_CLUSTER_NOW('envoy_cluster_upstream_rq_active')})", _CLUSTER_LEGEND),
        about="By Envoy's cluster: a pool, or a route to a Service.",
    ),
    panel(
        "Retries",
        Unit.REQUESTS_PER_S,
        (f"sum by (envoy_cluster_name) ({_CLUSTER_RATE('envoy_cluster_upstream_rq_retry')})", _CLUSTER_LEGEND),
        about="Requests sent to the next endpoint of the picker's list.",
    ),
    panel(
        "Connections that failed",
        Unit.PER_S,
        (f"sum by (envoy_cluster_name) ({_CLUSTER_RATE('envoy_cluster_upstream_cx_connect_fail')})", _CLUSTER_LEGEND),
    ),
)

_PICKER: tuple[Panel, ...] = (
    panel(
        "Decisions",
        Unit.REQUESTS_PER_S,
        (f"sum by (pool, strategy) ({_DECISIONS})", "{{pool}} {{strategy}}"),
        about="By pool, and the strategy that it had then.",
        kind=Kind.STACKED,
    ),
    panel(
        "Turned away, and why",
        Unit.REQUESTS_PER_S,
        (f"sum by (reason, criticality) ({_REFUSALS})", "{{reason}} {{criticality}}"),
        about="`saturated` are sheds: servers were full, and the request was sheddable.",
        kind=Kind.STACKED,
    ),
    panel(
        "Time of a decision",
        Unit.SECONDS,
        (mean(_DECISION_TIME, _RATE), "mean"),
        (quantile(0.5, _DECISION_TIME, _RATE), "p50"),
        (quantile(0.99, _DECISION_TIME, _RATE), "p99"),
    ),
    panel(
        "Exchanges with the picker",
        Unit.REQUESTS_PER_S,
        (f"sum({_RATE('envoy_http_ext_proc_inference_pool_streams_started')})", "asked"),
        (f"sum({_RATE('envoy_http_ext_proc_inference_pool_streams_failed')})", "failed"),
        (f"sum({_RATE('envoy_http_ext_proc_inference_pool_message_timeouts')})", "timed out"),
        (f"sum({_RATE('envoy_http_ext_proc_inference_pool_failure_mode_allowed')})", "went on without (FailOpen)"),
        about="As Envoy sees them.",
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
        about="Since the newest scrape that succeeded. A picker knows a server by its metrics.",
    ),
    panel(
        "Changes of the configuration",
        Unit.PER_S,
        ("sum by (result) (rate(inference_gateway_config_changes_total[$__rate_interval]))", "{{result}}"),
    ),
    panel(
        "Processor time of each picker",
        Unit.CORES,
        (
            "sum by (pod, instance) (rate(process_cpu_seconds_total[$__rate_interval])"
            " and on (pod, instance) inference_extension_info)",
            "{{pod}} {{instance}}",
        ),
        about="A picker decides in one thread: at one core it is full.",
    ),
    panel(
        "Memory of each picker",
        Unit.BYTES,
        (
            "max by (pod, instance) (process_resident_memory_bytes and on (pod, instance) inference_extension_info)",
            "{{pod}} {{instance}}",
        ),
    ),
)

_POOLS: tuple[Panel, ...] = (
    panel(
        "Endpoints that are ready",
        Unit.COUNT,
        ("max by (name) (inference_pool_ready_pods)", "{{name}}"),
    ),
    panel(
        "Mean queue of a pool",
        Unit.COUNT,
        ("max by (name) (inference_pool_average_queue_size)", "{{name}}"),
    ),
    panel(
        "Mean KV cache utilisation of a pool",
        Unit.SHARE,
        ("max by (name) (inference_pool_average_kv_cache_utilization)", "{{name}}"),
        high=1,
    ),
    _of_endpoints(
        "KV cache utilisation as the picker knows it",
        Unit.SHARE,
        "inference_gateway_endpoint_kv_cache_utilization",
        high=1,
    ),
    _of_endpoints("Queue as the picker knows it", Unit.COUNT, "inference_gateway_endpoint_queue_depth"),
    _of_endpoints("Running as the picker knows it", Unit.COUNT, "inference_gateway_endpoint_running_requests"),
    _of_pickers(
        "Picked and not ended",
        Unit.COUNT,
        "inference_gateway_in_flight_requests",
        about="Requests that the pickers sent there; what came through the plain port is not among them.",
    ),
    _of_pickers("Prompt tokens to compute", Unit.TOKENS, "inference_gateway_in_flight_prefill_tokens"),
    _of_pickers("Tokens to generate, expected", Unit.TOKENS, "inference_gateway_in_flight_decode_tokens"),
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
        about="From the pick to the answer's first byte, of answers whose headers pass the picker.",
    ),
)

_FLOW_CONTROL: tuple[Panel, ...] = (
    _held("Requests held by flow control", Unit.COUNT, "inference_gateway_held_requests"),
    _held("Bodies held by flow control", Unit.BYTES, "inference_gateway_held_bytes"),
)

_CACHES_AND_MODELS: tuple[Panel, ...] = (
    panel(
        "Prefix cache hits, predicted and real",
        Unit.SHARE,
        (
            f"sum by (pool) ({_POOL_RATE('inference_gateway_predicted_cached_tokens_total')})"
            f" / sum by (pool) ({_POOL_RATE('inference_gateway_prompt_tokens_total')})",
            "{{pool}} predicted",
        ),
        (
            f"sum({either(PREFIX_HITS, _RATE)}) / sum({either(PREFIX_QUERIES, _RATE)})",
            "servers, real",
        ),
        about="Share of prompt tokens. The servers count those of the plain port, too.",
        high=1,
    ),
    panel(
        "Requests of each model",
        Unit.REQUESTS_PER_S,
        (
            "sum by (model_name, target_model_name)"
            ' (rate(inference_objective_request_total{model_name!=""}[$__rate_interval]))',
            "{{model_name}} as {{target_model_name}}",
        ),
        kind=Kind.STACKED,
    ),
    panel(
        "Length of prompts by model, p95",
        Unit.TOKENS,
        (quantile(0.95, ("inference_objective_input_tokens",), _RATE, "model_name"), "{{model_name}}"),
        about="Estimated by the picker.",
    ),
)

INFERENCE_GATEWAY = Dashboard(
    uid="inference-gateway",
    title="Inference gateway",
    description="Both ports side by side, the endpoint picker, its pools, and who was turned away.",
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
        Variable("listener", "Port", "envoy_http_downstream_rq_total", _PORT, leave_out="admin|eg-.*|ready-.*"),
        Variable("pool", "Pool", "inference_gateway_pool_strategy_info", "pool"),
    ),
)
