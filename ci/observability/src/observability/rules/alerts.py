"""The alerts."""

from observability.rules.recording import (
    KV_CACHE,
    KV_CACHE_SPREAD,
    PICKER_FAILURES,
    REPLICA,
    REPLICAS,
    SHEDS,
    TTFT_BUDGET,
    TTFT_GOAL_S,
    WAITING,
    slow,
)
from observability.rules.rule import Alert, Severity

_REPLICA = "{{ $labels.pod }} {{ $labels.instance }}"
_SHARE = "{{ $value | humanizePercentage }}"


def _budget_burns(name: str, times: float, long: str, short: str, for_duration: str, severity: Severity) -> Alert:
    """An alert on the error budget: it is spent at least `times` as fast as allowed, over the long window and over the
    short one. Windows and factors are those of the SRE workbook, "Alerting on SLOs"."""
    bound = f"{times * TTFT_BUDGET:g}"
    return Alert(
        name,
        f"{slow(long)} > {bound} and {slow(short)} > {bound}",
        for_duration,
        severity,
        "Responses of {{ $labels.model_name }} start late",
        f"{_SHARE} of the responses in {long} took more than {TTFT_GOAL_S:g} s to start; {TTFT_BUDGET:.0%} may.",
    )


SERVER_ALERTS = (
    Alert(
        "VllmKvCacheNearlyFull",
        f"{KV_CACHE} > 0.95",
        "10m",
        Severity.WARNING,
        f"The KV cache of {_REPLICA} is nearly full",
        f"{_SHARE} of it has been in use for 10 minutes. Requests wait, and running ones are preempted.",
    ),
    Alert(
        "VllmQueueGrowing",
        f"{WAITING} > 5 * {REPLICAS} and deriv({WAITING}[10m]) > 0",
        "10m",
        Severity.WARNING,
        "Requests to {{ $labels.model_name }} arrive faster than they are served",
        "{{ $value | humanize }} requests wait, and the queue has been growing for 10 minutes.",
    ),
    _budget_burns("VllmTtftBudgetBurnsFast", 14.4, "1h", "5m", "2m", Severity.CRITICAL),
    _budget_burns("VllmTtftBudgetBurns", 6, "6h", "30m", "15m", Severity.WARNING),
    Alert(
        "VllmReplicasUneven",
        f"{KV_CACHE_SPREAD} > 0.4",
        "5m",
        Severity.WARNING,
        "Replicas of {{ $labels.model_name }} are loaded unevenly",
        f"In the mean of 10 minutes, KV cache utilisation of the replicas differs by up to {_SHARE}.",
    ),
    Alert(
        "VllmPreempting",
        f"sum by ({REPLICA}) (rate(vllm:num_preemptions_total[10m]))"
        f" > 0.1 * sum by ({REPLICA}) (rate(vllm:request_success_total[10m]))",
        "10m",
        Severity.WARNING,
        f"{_REPLICA} preempts requests",
        "{{ $value | humanize }} per second, more than one per ten finished requests. Each repeats its prefill.",
    ),
)

GATEWAY_ALERTS = (
    Alert(
        "PoolWithoutReadyEndpoint",
        "max by (name) (llm_d_epp_ready_endpoints) == 0",
        "1m",
        Severity.CRITICAL,
        "Pool {{ $labels.name }} has no ready endpoint",
        "Every request to it is rejected with status 503.",
    ),
    Alert(
        "PoolSheds",
        f"{SHEDS} > 0.01",
        "5m",
        Severity.WARNING,
        "Pool {{ $labels.pool }} sheds requests",
        f"{_SHARE} of its requests were shed because its servers are full.",
    ),
    Alert(
        "PickerMetricsStale",
        "max by (pool, endpoint, pod, instance) (inference_gateway_endpoint_metrics_age_seconds) > 10",
        "1m",
        Severity.WARNING,
        "A picker has no fresh metrics of {{ $labels.endpoint }}",
        f"Picker {_REPLICA} last read them {{{{ $value | humanizeDuration }}}} ago,"
        " and decides by its own in-flight requests.",
    ),
    Alert(
        "ApiServerCopyStale",
        "max by (resource, pod, instance) (inference_gateway_api_cache_age_seconds) > 600",
        "5m",
        Severity.WARNING,
        "The watch of {{ $labels.resource }} objects is stale",
        f"{_REPLICA} last received an event of them from the API server {{{{ $value | humanizeDuration }}}} ago.",
    ),
    Alert(
        "PickerFailing",
        f"{PICKER_FAILURES} > 0.01",
        "2m",
        Severity.CRITICAL,
        "Envoy gets no response from the picker",
        f"{_SHARE} of the calls failed or timed out. FailClose pools return 503, FailOpen pools are not balanced.",
    ),
    Alert(
        "ExtensionFailing",
        'sum by (hook, result) (rate(inference_gateway_extension_calls_total{result!="ok"}[5m])) > 0',
        "5m",
        Severity.WARNING,
        "Envoy Gateway's calls of the extension fail",
        "{{ $labels.hook }} has failed ({{ $labels.result }}) for 5 minutes. Envoy keeps its configuration:"
        " no change of a route has an effect.",
    ),
    Alert(
        "CertificateExpires",
        "min by (certificate, pod, instance) (inference_gateway_certificate_expiry_seconds) < 30 * 86400",
        "1h",
        Severity.WARNING,
        "A certificate between Envoy and the picker expires",
        f"{{{{ $labels.certificate }}}} of {_REPLICA} is valid for {{{{ $value | humanizeDuration }}}}"
        " and is not renewed.",
    ),
)
