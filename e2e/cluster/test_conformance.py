"""What the inference extension's conformance suite asks of a gateway that routes to InferencePools, beyond what stands
in `test_pools` and `test_statuses` already; each test names the suite's. Pools of another implementation's picker, as
there: it speaks TLS, wants bodies streamed, and picks what the header `x-pick` says.

In the other modules: InferencePoolAccepted, HTTPRouteInvalidInferencePoolRef, InferencePoolHTTPRoutePortValidation,
InferencePoolInvalidEPPService, InferencePoolMissingEPPRef, GatewayWeightedAcrossTwoInferencePools."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from clusters import Cluster
from extra_objects import PICKER, V1, Added, Object, route, to_pool
from protocol_parts import DOOR, PROTOCOL_PICKER, RANKS, pool_with_ports, protocol_picker, servers_with_ranks
from releases import MODEL, NAMESPACE, OF_ENVOY, PICKED, Release, forwarded
from test_requests import served
from traffic import Load
from waits import until

FLEET = "ranks"


@dataclass(frozen=True, slots=True)
class Fleet:
    """The servers, and a way to pick among them."""

    release: Release
    pods: Mapping[str, str]
    """Address by name."""

    def asks(self, test: str, *picked: str, content: str = "Hello", **more: Any) -> httpx.Response:
        headers = {"x-test": test, "x-pick": ",".join(picked)}
        return self.release.chat(PICKED, content, headers=headers, **more)

    def is_served_by(self, test: str, endpoint: str, **more: Any) -> bool:
        """Whether `endpoint` served what it was picked for, and was reported."""
        answer = self.asks(test, endpoint, **more)
        return (answer.status_code, answer.headers.get("x-served")) == (200, endpoint)

    @property
    def addresses(self) -> list[str]:
        return sorted(self.pods.values())


@pytest.fixture(scope="module")
def fleet(release: Release) -> Iterator[Fleet]:
    cluster = release.cluster
    [proxy] = {_image(pod, "envoy") for pod in cluster.items("pods", *OF_ENVOY)}
    image = _image(cluster.items("pods", "-l", "app.kubernetes.io/name=picker")[0], "picker")
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
            "the pool of the protocol's picker answers",
        )
        yield made


def _image(pod: Mapping[str, Any], container: str) -> str:
    return next(each["image"] for each in pod["spec"]["containers"] if each["name"] == container)


def _addresses(cluster: Cluster, selector: str) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in cluster.items("pods", "-l", selector)}


@contextmanager
def added_pool(fleet: Fleet, made: Object) -> Iterator[str]:
    """The pool and a route to it, until it answers; its name."""
    name = made["metadata"]["name"]
    port = made["spec"]["targetPorts"][0]["number"]
    with Added(fleet.release.cluster, made, route(name, to_pool(name, V1))):
        until(
            lambda: all(fleet.is_served_by(name, f"{fleet.addresses[0]}:{port}") for _ in range(8)),
            f"the pool {name} answers every time",
        )
        yield name


def test_a_request_goes_to_the_endpoint_that_was_picked_and_nowhere_else(fleet: Fleet) -> None:
    """GatewayFollowingEPPRouting: of several the first. GatewayDestinationEndpointServed: who served is reported."""
    first, second = (f"{address}:{RANKS[0]}" for address in fleet.addresses)
    for picked in ([first], [second], [first, second], [second, first]):
        for _ in range(5):
            assert fleet.asks("one-port", *picked).headers["x-served"] == picked[0]


def test_the_next_of_several_serves_where_the_first_cannot(fleet: Fleet) -> None:
    """The order of the list is that of the tries. Nobody listens on the second port."""
    with added_pool(fleet, pool_with_ports("dead-rank", FLEET, RANKS[0], 9)) as name:
        dead, alive = f"{fleet.addresses[0]}:9", f"{fleet.addresses[1]}:{RANKS[0]}"
        assert fleet.asks(name, dead, alive).headers.get("x-served") == alive


def test_an_address_outside_of_the_pool_is_not_called(fleet: Fleet) -> None:
    """Though a server listens there."""
    assert fleet.asks("one-port", f"{fleet.addresses[0]}:{RANKS[1]}").status_code == 503


def test_a_large_body_passes_a_picker_that_reads_it_in_chunks(fleet: Fleet) -> None:
    """And the answer comes back by way of it. It is the server's to refuse: its context is shorter."""
    picked = f"{fleet.addresses[0]}:{RANKS[0]}"
    answer = fleet.asks("one-port", picked, content="word " * 60_000)
    assert (answer.status_code, answer.headers["x-served"]) == (400, picked)


def test_ranks_are_endpoints_of_their_own(fleet: Fleet) -> None:
    """GatewayFollowingEPPRoutingWithDataParallelism: each port of each pod."""
    with added_pool(fleet, pool_with_ports("two-ports", FLEET, *RANKS)) as name:
        for address in fleet.addresses:
            for port in RANKS:
                assert fleet.is_served_by(name, f"{address}:{port}")


def test_our_own_picker_knows_the_ranks(fleet: Fleet) -> None:
    """And spreads requests over all ports of all pods."""
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
    """Requests that each rank of each pod has answered, by its own count."""
    by_port = {port: served(fleet.release.cluster, f"app={FLEET}", port) for port in RANKS}
    return {f"{pod}:{port}": by_port[port][pod] for pod in fleet.pods for port in RANKS}


def test_servers_are_spoken_to_as_the_pool_says(fleet: Fleet) -> None:
    """InferencePoolAppProtocol: HTTP/2 without TLS on a port that takes nothing else; HTTP/1.1 where it says that, or
    nothing."""
    with added_pool(fleet, pool_with_ports("h2c", FLEET, DOOR, appProtocol="kubernetes.io/h2c")):
        pass
    with added_pool(fleet, pool_with_ports("http", FLEET, RANKS[0], appProtocol="http")):
        pass


@pytest.mark.parametrize(("mode", "answers"), [("FailOpen", {200}), ("FailClose", {500, 503})])
def test_without_a_picker_the_pool_does_what_its_failure_mode_says(fleet: Fleet, mode: str, answers: set[int]) -> None:
    """EppUnAvailableFailOpen. Its Service selects nothing any more; a body would have been streamed to it."""
    with added_pool(fleet, pool_with_ports(f"unavailable-{mode.lower()}", FLEET, RANKS[0], failure_mode=mode)) as name:
        _select(fleet, "nobody")
        try:
            until(
                lambda: {fleet.asks(name, "127.0.0.1:1").status_code for _ in range(8)} <= answers,
                f"the pool answers {answers} every time",
            )
        finally:
            _select(fleet, PROTOCOL_PICKER)
        until(
            lambda: all(fleet.is_served_by(name, f"{fleet.addresses[1]}:{RANKS[0]}") for _ in range(8)),
            "the picker is asked again",
        )


def _select(fleet: Fleet, app: str) -> None:
    patch = f'{{"spec": {{"selector": {{"app": "{app}"}}}}}}'
    fleet.release.cluster.kubectl("patch", "service", PROTOCOL_PICKER, "--type=merge", f"-p={patch}")


def test_rules_of_one_route_lead_to_pools_of_their_own(fleet: Fleet) -> None:
    """InferencePoolMultipleRulesDifferentPools: by path."""
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


def test_a_pool_has_an_entry_for_each_gateway_that_leads_to_it(fleet: Fleet) -> None:
    """InferencePoolResolvedRefsCondition, InferencePoolControllerName, HTTPRouteMultipleGatewaysDifferentPools: a
    second Gateway with a pool of its own beside the shared one; the entries go with their routes, and so do the
    requests."""
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
        until(lambda: _parents(cluster, "own") == {("second", "True")}, "the second pool is accepted by the second")
        with _second_gateway(cluster) as url:
            picked = [f"{fleet.addresses[0]}:{port}" for port in RANKS]
            for name, endpoint in zip(("second-shared", "second-own"), picked, strict=True):
                until(lambda name=name, endpoint=endpoint: _asks(url, name, endpoint) == (200, endpoint), name)
            cluster.kubectl("delete", "httproute", "second-shared")
            until(
                lambda: _parents(cluster, "one-port") == {("qwen-inference-gateway", "True")},
                "the second Gateway's entry is gone",
            )
            until(lambda: _asks(url, "second-shared", picked[0])[0] == 404, "nothing leads there any more")
            assert _asks(url, "second-own", picked[1]) == (200, picked[1])
        assert fleet.is_served_by("one-port", picked[0])
        cluster.kubectl("delete", "httproute", "second-own")
        until(lambda: not _parents(cluster, "own"), "a pool that no route leads to has no entry")


def _parents(cluster: Cluster, name: str) -> set[tuple[str, str]]:
    """The Gateways that the pool's status tells of, and whether they accept it; all by our controller."""
    entries = cluster.get(f"inferencepools.{V1}", name).get("status", {}).get("parents") or []
    assert all(each["controllerName"] == "gateway.envoyproxy.io/gatewayclass-controller" for each in entries)
    return {
        (each["parentRef"]["name"], condition["status"])
        for each in entries
        for condition in each["conditions"]
        if condition["type"] == "Accepted"
    }


@contextmanager
def _second_gateway(cluster: Cluster) -> Iterator[str]:
    """Where it answers."""
    of_second = ("-n", NAMESPACE, "-l", "gateway.envoyproxy.io/owning-gateway-name=second")
    [service] = until(lambda: cluster.items("services", *of_second), "the second Gateway has a Service")
    until(lambda: cluster.items("deployments", *of_second), "and a Deployment")
    name = service["metadata"]["name"]
    cluster.rolled_out(name, NAMESPACE)
    with forwarded(cluster.kubeconfig, f"service/{name}", NAMESPACE, [80]) as ports:
        yield f"http://127.0.0.1:{ports[80]}"


def _asks(url: str, test: str, picked: str) -> tuple[int, str | None]:
    """Status, and who served; 0 when nothing answers."""
    body = {"model": MODEL, "max_completion_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"x-test": test, "x-pick": picked}
    try:
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=10)
    except httpx.TransportError:
        return 0, None
    return answer.status_code, answer.headers.get("x-served")
