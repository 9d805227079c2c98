"""Gauges of the current pools and endpoints, read at each scrape. Removed pools and endpoints have no samples."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from prometheus_client.core import Metric

from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.observability.prometheus_families import gauge
from picker.requestcontrol.served_pool import ServedPool

Named = Mapping[str, Endpoint]
"""A pool's endpoints by their label in metrics."""


def endpoint_labels(endpoints: Sequence[Endpoint]) -> Named:
    """Labels endpoints by the name of their server. If a server has several endpoints (ports), adds the address."""
    servers = Counter(endpoint.server for endpoint in endpoints)
    return {
        endpoint.server if servers[endpoint.server] == 1 else f"{endpoint.server}/{endpoint.address}": endpoint
        for endpoint in endpoints
    }


def gauge_families(pools: Iterable[ServedPool], now_s: float, *, legacy: bool) -> Iterable[Metric]:
    """Returns the gauges of `pools`. `now_s` is on the clock of the scrapes. `legacy`: under GAIE's names, too."""
    served = {pool.label: pool for pool in pools}
    named = {label: endpoint_labels(pool.endpoints) for label, pool in served.items()}
    yield gauge(
        "inference_gateway_pool_strategy_info",
        "1 for the current strategy of a pool.",
        ("pool", "strategy"),
        [((label, pool.scheduler.strategy.value), 1) for label, pool in served.items()],
    )
    for prefix in ("llm_d_epp", "inference_extension")[: 1 + legacy]:
        yield gauge(
            f"{prefix}_prefix_indexer_size",
            "Distinct blocks of prompts that are expected in the prefix cache of any endpoint.",
            (),
            [((), sum(len(pool.prefixes) for pool in served.values()))],
        )
    for name, documentation, of in _OF_ENDPOINTS:
        yield _of_endpoints(f"inference_gateway_{name}", documentation, named, of)
    for name, documentation, read in _OF_SCRAPES:
        yield _of_endpoints(f"inference_gateway_{name}", documentation, named, _of_metrics(read))
    yield _of_endpoints(
        "inference_gateway_endpoint_metrics_age_seconds",
        "Seconds since the newest scrape that succeeded.",
        named,
        _of_metrics(lambda metrics: now_s - metrics.scraped_at_s),
    )
    yield from _in_flight(named)
    for names in (LLM_D_NAMES, GAIE_NAMES)[: 1 + legacy]:
        yield from _upstream_gauges(named, names)


class PoolGaugeNames(NamedTuple):
    """The names of another endpoint picker's gauges of pools."""

    prefix: str
    ready: str
    queue: str
    endpoint: str
    """The label of an endpoint."""


LLM_D_NAMES = PoolGaugeNames("llm_d_epp", "ready_endpoints", "per_endpoint_queue_size", "model_server_endpoint")
GAIE_NAMES = PoolGaugeNames("inference_pool", "ready_pods", "per_pod_queue_size", "model_server_pod")


def _in_flight(named: Mapping[str, Named]) -> Iterable[Metric]:
    """The in-flight tracker in llm-d's words. An endpoint of several pools of a namespace has one sample."""
    endpoints = {
        (name, label.partition("/")[0]): endpoint
        for label, of_pool in named.items()
        for name, endpoint in of_pool.items()
    }
    for name, documentation, read in (
        ("inflight_requests", "Sequences that this picker sent to the endpoint and that have not ended.", _requests),
        ("inflight_tokens", "Prompt tokens in flight there that are neither computed nor cached.", _prefill_tokens),
    ):
        samples = [(labels, read(endpoint)) for labels, endpoint in endpoints.items()]
        yield gauge(f"llm_d_epp_{name}", documentation, ("endpoint_name", "namespace"), samples)


def _upstream_gauges(named: Mapping[str, Named], names: PoolGaugeNames) -> Iterable[Metric]:
    """The gauges of another endpoint picker, by the pool's name without its namespace, as it names pools."""
    pools = {label.partition("/")[2]: endpoints for label, endpoints in named.items()}
    metrics = {
        name: [endpoint.metrics for endpoint in endpoints.values() if endpoint.metrics]
        for name, endpoints in pools.items()
    }
    for family, documentation, read in (
        ("average_kv_cache_utilization", "Mean KV cache usage of the endpoints, 0 to 1.", _kv_cache_usage),
        ("average_queue_size", "Mean of the requests that wait at an endpoint.", _queue_depth),
        ("average_running_requests", "Mean of the requests that run at an endpoint.", _running),
    ):
        means = [((name,), sum(map(read, some)) / len(some)) for name, some in metrics.items() if some]
        yield gauge(f"{names.prefix}_{family}", documentation, ("name",), means)
    yield gauge(
        f"{names.prefix}_{names.ready}",
        "Endpoints that requests may be sent to.",
        ("name",),
        [((name,), len(endpoints)) for name, endpoints in pools.items()],
    )
    yield gauge(
        f"{names.prefix}_{names.queue}",
        "Requests that wait at an endpoint.",
        ("name", names.endpoint),
        [
            ((name, label), endpoint.metrics.queue_depth)
            for name, endpoints in pools.items()
            for label, endpoint in endpoints.items()
            if endpoint.metrics
        ],
    )


def _of_endpoints(
    name: str, documentation: str, named: Mapping[str, Named], of: Callable[[Endpoint], float | None]
) -> Metric:
    values = [
        ((pool, label), value)
        for pool, endpoints in named.items()
        for label, endpoint in endpoints.items()
        if (value := of(endpoint)) is not None
    ]
    return gauge(name, documentation, ("pool", "endpoint"), values)


def _of_metrics(read: Callable[[ServerMetrics], float]) -> Callable[[Endpoint], float | None]:
    return lambda endpoint: read(endpoint.metrics) if endpoint.metrics is not None else None


def _kv_cache_usage(metrics: ServerMetrics) -> float:
    return metrics.kv_cache_usage


def _queue_depth(metrics: ServerMetrics) -> float:
    return metrics.queue_depth


def _running(metrics: ServerMetrics) -> float:
    return metrics.running


def _requests(endpoint: Endpoint) -> float:
    return endpoint.in_flight.requests - endpoint.peers_in_flight.requests


def _prefill_tokens(endpoint: Endpoint) -> float:
    return endpoint.in_flight.prefill_tokens - endpoint.peers_in_flight.prefill_tokens


_OF_ENDPOINTS: Sequence[tuple[str, str, Callable[[Endpoint], float | None]]] = (
    (
        "in_flight_requests",
        "Sequences that this picker sent to the endpoint and that have not ended.",
        _requests,
    ),
    (
        "in_flight_prefill_tokens",
        "Prompt tokens in flight at the endpoint that are not computed yet, without those expected in its cache.",
        _prefill_tokens,
    ),
    (
        "in_flight_decode_tokens",
        "Tokens that the requests in flight at the endpoint are expected to generate.",
        lambda endpoint: endpoint.in_flight.decode_tokens - endpoint.peers_in_flight.decode_tokens,
    ),
    (
        "endpoint_contradicts_ledger",
        "1 while the endpoint has reported less than half of the requests in flight there for 10 s.",
        lambda endpoint: float(endpoint.credibility.contradicted),
    ),
    (
        "endpoint_refuses_connections",
        "1 while the endpoint refuses connections.",
        lambda endpoint: float(endpoint.unreachable_since_s is not None),
    ),
    (
        "endpoint_scrape_interval_seconds",
        "Present time between two scrapes of the endpoint.",
        lambda endpoint: endpoint.scrape_interval_s,
    ),
    (
        "endpoint_metrics_page_seconds",
        "The endpoint's time for a page of metrics: the shortest of the newest ones, from request to last byte.",
        lambda endpoint: endpoint.page_s,
    ),
)

_OF_SCRAPES: Sequence[tuple[str, str, Callable[[ServerMetrics], float]]] = (
    ("endpoint_kv_cache_utilization", "KV cache usage at the newest scrape, 0 to 1.", _kv_cache_usage),
    ("endpoint_queue_depth", "Requests that wait at the endpoint, at the newest scrape.", _queue_depth),
    (
        "endpoint_running_requests",
        "Requests that run at the endpoint, at the newest scrape.",
        _running,
    ),
)
