"""The endpoints of pools and the addresses of Services through changes of the inventory."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picker.endpoints.datastore import Datastore, MembershipChange, service_key
from picker.endpoints.endpoint import ServerMetrics
from picker.resources.inference import AppProtocol, InferencePool, RoutingStrategy
from picker.resources.names import ObjectName, PoolName
from picker.resources.objects import AnyObject, Resources
from picker.resources.services import Service
from picker.sources.active_ports import ActivePorts
from picker.sources.inventory import Inventory, ModelServer

GROUP = "inference.networking.k8s.io"
QWEN = PoolName(GROUP, "default", "qwen")


def pool(name: PoolName = QWEN, ports: Sequence[int] = (8000,), **selector: str) -> InferencePool:
    return InferencePool(
        name, selector or {"app": "qwen"}, tuple(ports), None, AppProtocol.HTTP, RoutingStrategy.DEFAULT
    )


def server(name: str, address: str, port: int | None = None, namespace: str = "default", **labels: str) -> ModelServer:
    return ModelServer(name, namespace, address, port, labels or {"app": "qwen"})


def service(ports: list[dict[str, object]], **selector: str) -> Service:
    return Service.model_validate(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "qwen"},
            "spec": {"selector": selector or {"app": "qwen"}, "ports": ports},
        }
    )


def inventory(objects: Sequence[AnyObject], *servers: ModelServer) -> Inventory:
    return Inventory(Resources.of(objects), servers)


def addresses(endpoints: Datastore, name: PoolName = QWEN) -> list[str]:
    return [item.address for item in endpoints.of_pool(name)]


A, B = server("a", "10.0.0.1"), server("b", "10.0.0.2")


def test_a_pool_has_the_servers_with_its_labels() -> None:
    """With all of its labels, in its namespace. More labels do not matter."""
    endpoints = Datastore()
    endpoints.update(
        inventory(
            [pool(app="qwen", tier="gpu")],
            server("both", "10.0.0.1", app="qwen", tier="gpu", more="x"),
            server("one", "10.0.0.2", app="qwen"),
            server("other", "10.0.0.3", app="llama", tier="gpu"),
            server("elsewhere", "10.0.0.4", namespace="other", app="qwen", tier="gpu"),
        )
    )
    assert addresses(endpoints) == ["10.0.0.1:8000"]
    assert endpoints.addresses(str(QWEN)) == ("10.0.0.1:8000",)


def test_a_terminating_server_leaves_a_pool_that_has_another() -> None:
    endpoints = Datastore()
    endpoints.update(inventory([pool()], A, B))
    change = endpoints.update(inventory([pool()], replace(A, terminating=True), B))
    assert [item.address for item in change.left] == ["10.0.0.1:8000"]
    assert endpoints.addresses(str(QWEN)) == ("10.0.0.2:8000",)


def test_terminating_servers_are_used_while_there_is_no_other() -> None:
    """Their metrics and requests in flight stay. A new server takes over from them."""
    endpoints = Datastore()
    endpoints.update(inventory([pool()], A, B))
    before = list(endpoints)
    change = endpoints.update(inventory([pool()], replace(A, terminating=True), replace(B, terminating=True)))
    assert (change.left, list(endpoints)) == ((), before)
    new = server("c", "10.0.0.3")
    endpoints.update(inventory([pool()], replace(A, terminating=True), replace(B, terminating=True), new))
    assert endpoints.addresses(str(QWEN)) == ("10.0.0.3:8000",)


def test_an_endpoint_is_kept_while_its_server_exists() -> None:
    """With its metrics and in-flight requests. Its labels are updated."""
    endpoints = Datastore()
    endpoints.update(inventory([pool()], A))
    [endpoint] = endpoints
    endpoint.metrics = ServerMetrics(queue_depth=1, running=2, kv_cache_usage=0.5)
    endpoint.in_flight.requests = 3
    change = endpoints.update(inventory([pool()], server("a", "10.0.0.1", app="qwen", tier="new"), B))
    assert endpoints.of_pool(QWEN)[0] is endpoint
    assert (endpoint.in_flight.requests, endpoint.labels["tier"]) == (3, "new")
    assert [item.address for item in change.joined] == ["10.0.0.2:8000"]


def test_an_endpoint_that_joins_again_is_a_new_one() -> None:
    """Its caches are empty and its requests have ended."""
    endpoints = Datastore()
    endpoints.update(inventory([pool()], A))
    [before] = endpoints
    assert endpoints.update(inventory([pool()])).left == (before,)
    change = endpoints.update(inventory([pool()], A))
    [after] = endpoints
    assert after is not before
    assert change.joined == (after,)


def test_another_server_at_the_same_address_is_a_new_endpoint() -> None:
    """Addresses are used again soon after a pod has left. The address is the same for Envoy."""
    endpoints = Datastore()
    endpoints.update(inventory([pool()], A))
    [before] = endpoints
    change = endpoints.update(inventory([pool()], server("c", "10.0.0.1")))
    assert change.left == (before,)
    assert [item.server for item in change.joined] == ["c"]
    assert change.readdressed == frozenset()


def test_pools_share_endpoints() -> None:
    """A server in two pools has one load, joins with the first pool and leaves with the last."""
    other = PoolName(GROUP, "default", "other")
    endpoints = Datastore()
    endpoints.update(inventory([pool()], A))
    change = endpoints.update(inventory([pool(), pool(other)], A))
    assert endpoints.of_pool(QWEN)[0] is endpoints.of_pool(other)[0]
    assert (change.joined, change.left, change.readdressed) == ((), (), {str(other)})
    change = endpoints.update(inventory([pool(other)], A))
    assert change.left == ()
    assert len(endpoints) == 1
    assert endpoints.update(inventory([])).left != ()


def test_each_target_port_is_an_endpoint() -> None:
    """Ranks of a data-parallel server."""
    endpoints = Datastore()
    endpoints.update(inventory([pool(ports=(8000, 8001))], A))
    assert addresses(endpoints) == ["10.0.0.1:8000", "10.0.0.1:8001"]
    assert [item.server for item in endpoints] == ["a", "a"]


@pytest.mark.parametrize(("active", "found"), [(None, [8000, 8001]), ({8001, 9000}, [8001]), (set[int](), list[int]())])
def test_only_active_ports_are_endpoints(active: set[int] | None, found: list[int]) -> None:
    endpoints = Datastore()
    ports = ActivePorts(frozenset(active) if active is not None else None)
    endpoints.update(inventory([pool(ports=[8000, 8001])], replace(A, active_ports=ports)))
    assert addresses(endpoints) == [f"10.0.0.1:{port}" for port in found]
    assert endpoints.addresses(str(QWEN)) == tuple(addresses(endpoints))


def test_a_servers_own_port_is_used() -> None:
    """For several servers on one machine. A pool with several ports uses its own."""
    first, second = server("a", "127.0.0.1", 9001), server("b", "127.0.0.1", 9002)
    endpoints = Datastore()
    endpoints.update(inventory([pool()], first, second))
    assert addresses(endpoints) == ["127.0.0.1:9001", "127.0.0.1:9002"]
    endpoints.update(inventory([pool(ports=(1, 2))], first))
    assert addresses(endpoints) == ["127.0.0.1:1", "127.0.0.1:2"]


def test_of_two_servers_with_one_address_the_first_is_used() -> None:
    """Envoy cannot distinguish them."""
    endpoints = Datastore()
    endpoints.update(inventory([pool()], A, server("z", "10.0.0.1")))
    assert [item.server for item in endpoints] == ["a"]


def test_an_ipv6_address_is_in_brackets() -> None:
    """For pools and for Services."""
    endpoints = Datastore()
    endpoints.update(inventory([pool(), service([{"port": 80}])], server("six", "fd00::1")))
    assert addresses(endpoints) == ["[fd00::1]:8000"]
    assert endpoints.addresses(service_key(ObjectName("default", "qwen"), 80)) == ("[fd00::1]:80",)


@pytest.mark.parametrize(
    ("port", "number", "of_a_pod", "of_a_process"),
    [
        ({"port": 80}, 80, ("10.0.0.1:80",), ("127.0.0.1:9001",)),
        ({"port": 80, "targetPort": 8000}, 80, ("10.0.0.1:8000",), ("127.0.0.1:9001",)),
        ({"port": 80, "targetPort": "http"}, 80, (), ("127.0.0.1:9001",)),
    ],
)
def test_a_service_port_has_the_addresses_of_its_target_port(
    port: dict[str, object], number: int, of_a_pod: tuple[str, ...], of_a_process: tuple[str, ...]
) -> None:
    """Unless the server has a port of its own. A port name has no number otherwise."""
    key = service_key(ObjectName("default", "qwen"), number)
    endpoints = Datastore()
    endpoints.update(inventory([service([port])], A))
    assert endpoints.addresses(key) == of_a_pod
    endpoints.update(inventory([service([port])], server("p", "127.0.0.1", 9001)))
    assert endpoints.addresses(key) == of_a_process


def test_each_port_of_a_service_has_its_addresses() -> None:
    """A server's own port does not replace one of several ports."""
    endpoints = Datastore()
    ports: list[dict[str, object]] = [{"port": 80, "targetPort": 8000}, {"port": 9090}]
    endpoints.update(inventory([service(ports)], A, server("p", "127.0.0.1", 9001)))
    name = ObjectName("default", "qwen")
    assert endpoints.addresses(service_key(name, 80)) == ("10.0.0.1:8000", "127.0.0.1:8000")
    assert endpoints.addresses(service_key(name, 9090)) == ("10.0.0.1:9090", "127.0.0.1:9090")
    assert endpoints.addresses(service_key(name, 1)) is None


def test_a_service_without_a_selector_has_no_known_addresses() -> None:
    """They are set by another controller. Its servers are not endpoints of a pool."""
    endpoints = Datastore()
    without = Service.model_validate(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "qwen"}, "spec": {"ports": [{"port": 80}]}}
    )
    endpoints.update(inventory([without], A))
    assert endpoints.addresses(service_key(ObjectName("default", "qwen"), 80)) == ()
    assert len(endpoints) == 0


def test_a_sequence_of_a_pool_stays_the_same_object() -> None:
    """The scheduler keeps it. It becomes empty when the pool is removed."""
    endpoints = Datastore()
    endpoints.update(inventory([pool()], A))
    sequence = endpoints.of_pool(QWEN)
    endpoints.update(inventory([pool()], A, B))
    assert endpoints.of_pool(QWEN) is sequence
    assert len(sequence) == 2
    endpoints.update(inventory([], A, B))
    assert list(sequence) == []
    assert endpoints.addresses(str(QWEN)) is None


def test_listeners_are_called_for_changes_only() -> None:
    """An equal inventory is no change."""
    changes: list[MembershipChange] = []
    endpoints = Datastore()
    endpoints.listen(changes.append)
    endpoints.update(inventory([pool()], A))
    endpoints.update(inventory([pool()], server("a", "10.0.0.1", app="qwen", more="x")))
    endpoints.update(inventory([pool()]))
    assert [(len(item.joined), len(item.left), sorted(item.readdressed)) for item in changes] == [
        (1, 0, [str(QWEN)]),
        (0, 1, [str(QWEN)]),
    ]


places = st.tuples(st.sampled_from("abc"), st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]))
pool_names = st.sampled_from([PoolName(GROUP, "default", name) for name in ("p", "q")])
inventories = st.builds(
    lambda names, found: inventory([pool(name) for name in names], *(server(*item) for item in found)),
    st.sets(pool_names),
    st.lists(places, max_size=4),
)


@given(st.lists(inventories, max_size=6))
def test_the_changes_add_up_to_the_endpoints(steps: list[Inventory]) -> None:
    """For any sequence of inventories the sum of the changes equals the current state."""
    endpoints = Datastore()
    followed: set[object] = set()
    addresses_known: dict[str, tuple[str, ...] | None] = {}
    for step in steps:
        change = endpoints.update(step)
        assert not followed.intersection(change.joined)
        assert followed.issuperset(change.left)
        followed = followed.difference(change.left).union(change.joined)
        assert followed == set(endpoints)
        for name in change.readdressed:
            addresses_known[name] = endpoints.addresses(name)
        for name in (PoolName(GROUP, "default", item) for item in ("p", "q")):
            assert endpoints.addresses(str(name)) == addresses_known.get(str(name))
            assert [item.address for item in endpoints.of_pool(name)] == list(endpoints.addresses(str(name)) or ())
