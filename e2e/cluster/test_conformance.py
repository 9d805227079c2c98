"""Tests of the inference extension's conformance suite for gateways that route to InferencePools.

Each test names the suite's test that it repeats. As in the suite, the pools use another implementation's picker: it
serves TLS, requires streamed bodies, and picks the endpoint that the header `x-pick` names.

Covered in `test_pools` and `test_statuses`: InferencePoolAccepted, HTTPRouteInvalidInferencePoolRef,
InferencePoolHTTPRoutePortValidation, InferencePoolInvalidEPPService, InferencePoolMissingEPPRef,
GatewayWeightedAcrossTwoInferencePools.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from clusters import Cluster
from extra_objects import PICKER, V1, Added, Object, route, to_pool
from protocol_parts import (
    H2C_PORT,
    PROTOCOL_PICKER,
    RANKS,
    image_of,
    pool_with_ports,
    protocol_picker,
    servers_with_ranks,
)
from releases import MODEL, NAMESPACE, OF_ENVOY, PICKED, Release, forwarded
from test_requests import served
from traffic import Load
from waits import until

FLEET = "ranks"


@dataclass(frozen=True, slots=True)
class Fleet:
    """The model servers, and requests to an endpoint of choice."""

    release: Release
    pods: Mapping[str, str]
    """Address by pod name."""

    def chat(self, test: str, *picked: str, content: str = "Hello", **more: Any) -> httpx.Response:
        headers = {"x-test": test, "x-pick": ",".join(picked)}
        return self.release.chat(PICKED, content, headers=headers, **more)

    def is_served_by(self, test: str, endpoint: str, **more: Any) -> bool:
        """Whether `endpoint` served a request for which it was picked, and was reported."""
        answer = self.chat(test, endpoint, **more)
        return (answer.status_code, answer.headers.get("x-served")) == (200, endpoint)

    @property
    def addresses(self) -> list[str]:
        return sorted(self.pods.values())


@pytest.fixture(scope="module")
def fleet(release: Release) -> Iterator[Fleet]:
    cluster = release.cluster
    [proxy] = {image_of(pod, "envoy") for pod in cluster.items("pods", *OF_ENVOY)}
    image = image_of(cluster.items("pods", "-l", "app.kubernetes.io/name=picker")[0], "picker")
    objects = [
        servers_with_ranks(FLEET, proxy, replicas=2),
        *protocol_picker(image),
        pool_with_ports("one-port", FLEET, RANKS[0]),
        route("one-port", to_pool("one-port", V1)),
    ]
    with Added(cluster, *objects):
        made = Fleet(release, _addresses(cluster, f"app={FLEET}"))
        until(
            lambda: all(made.is_served_by("one-port", f"{address}:{RANKS[0]}") for address in made.addresses * 4),
            "the pool of the independent picker serves",
        )
        yield made


def _addresses(cluster: Cluster, selector: str) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in cluster.items("pods", "-l", selector)}


@contextmanager
def added_pool(fleet: Fleet, made: Object) -> Iterator[str]:
    """Adds the pool and a route to it, and waits until it serves. Yields the pool's name."""
    name = made["metadata"]["name"]
    port = made["spec"]["targetPorts"][0]["number"]
    with Added(fleet.release.cluster, made, route(name, to_pool(name, V1))):
        until(
            lambda: all(fleet.is_served_by(name, f"{fleet.addresses[0]}:{port}") for _ in range(8)),
            f"the pool {name} serves every request",
        )
        yield name


def test_a_request_goes_only_to_the_endpoint_that_was_picked(fleet: Fleet) -> None:
    """GatewayFollowingEPPRouting: the first of several. GatewayDestinationEndpointServed: the endpoint is reported."""
    first, second = (f"{address}:{RANKS[0]}" for address in fleet.addresses)
    for picked in ([first], [second], [first, second], [second, first]):
        for _ in range(5):
            assert fleet.chat("one-port", *picked).headers["x-served"] == picked[0]


def test_the_next_endpoint_serves_if_the_first_refuses_the_connection(fleet: Fleet) -> None:
    """The list's order is the order of the attempts. No server listens on port 9."""
    with added_pool(fleet, pool_with_ports("dead-rank", FLEET, RANKS[0], 9)) as name:
        dead, alive = f"{fleet.addresses[0]}:9", f"{fleet.addresses[1]}:{RANKS[0]}"
        assert fleet.chat(name, dead, alive).headers.get("x-served") == alive


def test_no_request_goes_to_an_address_outside_the_pool(fleet: Fleet) -> None:
    """A server listens at the address, but it is no endpoint of the pool."""
    assert fleet.chat("one-port", f"{fleet.addresses[0]}:{RANKS[1]}").status_code == 503


def test_a_large_body_passes_a_picker_that_reads_it_in_chunks(fleet: Fleet) -> None:
    """The response passes the picker, too. The server rejects the prompt with 400: its context is shorter."""
    picked = f"{fleet.addresses[0]}:{RANKS[0]}"
    answer = fleet.chat("one-port", picked, content="word " * 60_000)
    assert (answer.status_code, answer.headers["x-served"]) == (400, picked)


def test_ranks_are_endpoints_of_their_own(fleet: Fleet) -> None:
    """GatewayFollowingEPPRoutingWithDataParallelism: each port of each pod is an endpoint."""
    with added_pool(fleet, pool_with_ports("two-ports", FLEET, *RANKS)) as name:
        for address in fleet.addresses:
            for port in RANKS:
                assert fleet.is_served_by(name, f"{address}:{port}")


def test_our_own_picker_uses_all_ranks(fleet: Fleet) -> None:
    """It spreads requests over all ports of all pods."""
    ours = pool_with_ports("own-ranks", FLEET, *RANKS, picker=PICKER)
    with Added(fleet.release.cluster, ours, route("own-ranks", to_pool("own-ranks", V1))):
        before = _served_by_rank(fleet)
        with Load(fleet.release.urls[PICKED], clients=8, headers={"x-test": "own-ranks"}):
            until(
                lambda: all(now > before[rank] for rank, now in _served_by_rank(fleet).items()),
                "every rank of every pod has served",
                interval_s=0.5,
            )


def _served_by_rank(fleet: Fleet) -> dict[str, int]:
    """Completed requests by pod and port, from the servers' own counters."""
    by_port = {port: served(fleet.release.cluster, f"app={FLEET}", port) for port in RANKS}
    return {f"{pod}:{port}": by_port[port][pod] for pod in fleet.pods for port in RANKS}


def test_the_pools_app_protocol_is_used(fleet: Fleet) -> None:
    """InferencePoolAppProtocol: h2c on a port that accepts nothing else. HTTP/1.1 for `http`, and by default."""
    with added_pool(fleet, pool_with_ports("h2c", FLEET, H2C_PORT, appProtocol="kubernetes.io/h2c")):
        pass  # must not raise: the pool serves
    with added_pool(fleet, pool_with_ports("http", FLEET, RANKS[0], appProtocol="http")):
        pass  # must not raise: the pool serves


@pytest.mark.parametrize(("mode", "statuses"), [("FailOpen", {200}), ("FailClose", {500, 503})])
def test_without_a_picker_the_pools_failure_mode_applies(fleet: Fleet, mode: str, statuses: set[int]) -> None:
    """EppUnAvailableFailOpen. The picker's Service selects no pod. The request has a body, which would be streamed."""
    with added_pool(fleet, pool_with_ports(f"unavailable-{mode.lower()}", FLEET, RANKS[0], failure_mode=mode)) as name:
        _select(fleet, "no-such-app")
        try:
            until(
                lambda: {fleet.chat(name, "127.0.0.1:1").status_code for _ in range(8)} <= statuses,
                f"the pool responds with {statuses} every time",
            )
        finally:
            _select(fleet, PROTOCOL_PICKER)
        until(
            lambda: all(fleet.is_served_by(name, f"{fleet.addresses[1]}:{RANKS[0]}") for _ in range(8)),
            "the picker is used again",
        )


def _select(fleet: Fleet, app: str) -> None:
    patch = f'{{"spec": {{"selector": {{"app": "{app}"}}}}}}'
    fleet.release.cluster.kubectl("patch", "service", PROTOCOL_PICKER, "--type=merge", f"-p={patch}")


def test_rules_of_one_route_lead_to_different_pools(fleet: Fleet) -> None:
    """InferencePoolMultipleRulesDifferentPools: the rules match by path."""
    rules = [
        {
            "matches": [{"path": {"type": "PathPrefix", "value": f"/{name}"}}],
            "filters": [
                {
                    "type": "URLRewrite",
                    "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
                }
            ],
            "backendRefs": [to_pool(name, V1)],
        }
        for name in ("left", "right")
    ]
    paths = {**route("by-path"), "spec": {**route("by-path")["spec"], "rules": rules}}
    ranks = dict(zip(("left", "right"), RANKS, strict=True))
    pools = [pool_with_ports(name, FLEET, port) for name, port in ranks.items()]
    with Added(fleet.release.cluster, *pools, paths):
        for name, port in ranks.items():
            endpoint = f"{fleet.addresses[0]}:{port}"

            def is_served(name: str = name, endpoint: str = endpoint) -> bool:
                answer = httpx.get(
                    f"{fleet.release.urls[PICKED]}/{name}/v1/models", headers={"x-pick": endpoint}, timeout=10
                )
                return (answer.status_code, answer.headers.get("x-served")) == (200, endpoint)

            until(is_served, f"the rule of {name} leads to its own pool")


def test_a_pools_status_has_an_entry_for_each_gateway(fleet: Fleet) -> None:
    """InferencePoolResolvedRefsCondition, InferencePoolControllerName, HTTPRouteMultipleGatewaysDifferentPools.

    A second Gateway has its own pool and shares the first one's. Entries and requests end with their routes.
    """
    cluster = fleet.release.cluster
    listeners = [{"name": "llm-gw", "protocol": "HTTP", "port": 80}]
    second: Object = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "second", "namespace": "default"},
        "spec": {"gatewayClassName": "qwen-inference-gateway-class", "listeners": listeners},
    }
    parent = [{"name": "second"}]
    shared, own = (
        {**route(name, to_pool(of, V1)), "spec": {**route(name, to_pool(of, V1))["spec"], "parentRefs": parent}}
        for name, of in (("second-shared", "one-port"), ("second-own", "own"))
    )
    with Added(cluster, second, pool_with_ports("own", FLEET, RANKS[1]), shared, own):
        both = {("qwen-inference-gateway", "True"), ("second", "True")}
        until(lambda: _parents(cluster, "one-port") == both, "the shared pool is accepted by both Gateways")
        until(
            lambda: _parents(cluster, "own") == {("second", "True")},
            "the second pool is accepted by the second Gateway",
        )
        with _second_gateway(cluster) as url:
            picked = [f"{fleet.addresses[0]}:{port}" for port in RANKS]
            for name, endpoint in zip(("second-shared", "second-own"), picked, strict=True):
                until(lambda name=name, endpoint=endpoint: _chat(url, name, endpoint) == (200, endpoint), name)
            cluster.kubectl("delete", "httproute", "second-shared")
            until(
                lambda: _parents(cluster, "one-port") == {("qwen-inference-gateway", "True")},
                "the second Gateway's entry is gone",
            )
            until(lambda: _chat(url, "second-shared", picked[0])[0] == 404, "the deleted route responds with 404")
            assert _chat(url, "second-own", picked[1]) == (200, picked[1])
        assert fleet.is_served_by("one-port", picked[0])
        cluster.kubectl("delete", "httproute", "second-own")
        until(lambda: not _parents(cluster, "own"), "a pool without a route has no entry")


def _parents(cluster: Cluster, name: str) -> set[tuple[str, str]]:
    """Gateways in the pool's status, and whether they accept it. All entries have to be of our controller."""
    entries = cluster.get(f"inferencepools.{V1}", name).get("status", {}).get("parents") or []
    assert all(entry["controllerName"] == "gateway.envoyproxy.io/gatewayclass-controller" for entry in entries)
    return {
        (entry["parentRef"]["name"], condition["status"])
        for entry in entries
        for condition in entry["conditions"]
        if condition["type"] == "Accepted"
    }


@contextmanager
def _second_gateway(cluster: Cluster) -> Iterator[str]:
    """Yields the second Gateway's URL."""
    of_second = ("-n", NAMESPACE, "-l", "gateway.envoyproxy.io/owning-gateway-name=second")
    [service] = until(lambda: cluster.items("services", *of_second), "the second Gateway has a Service")
    until(lambda: cluster.items("deployments", *of_second), "the second Gateway has a Deployment")
    name = service["metadata"]["name"]
    cluster.rolled_out(name, NAMESPACE)
    with forwarded(cluster.kubeconfig, f"service/{name}", NAMESPACE, [80]) as ports:
        yield f"http://127.0.0.1:{ports[80]}"


def _chat(url: str, test: str, picked: str) -> tuple[int, str | None]:
    """Status and the endpoint that served; 0 and None if the connection fails."""
    body = {"model": MODEL, "max_completion_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"x-test": test, "x-pick": picked}
    try:
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=10)
    except httpx.TransportError:
        return 0, None
    return answer.status_code, answer.headers.get("x-served")
