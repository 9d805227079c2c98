"""The endpoints of the pools and the addresses of the Services, by the newest inventory.

Envoy requests the addresses of either by an EDS `service_name`: `str(PoolName)` of a pool, and
`service/NAMESPACE/NAME/PORT` of a port of a Service.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from picker.addresses import join_address
from picker.endpoints.endpoint import Endpoint
from picker.resources.inference import InferencePool
from picker.resources.names import ObjectName, PoolName
from picker.resources.services import Service, ServicePort
from picker.sources.inventory import Inventory, ModelServer


def service_key(service: ObjectName, port: int) -> str:
    """The EDS service name of a port of a Service."""
    return f"service/{service.namespace}/{service.name}/{port}"


@dataclass(frozen=True, slots=True)
class MembershipChange:
    """The difference between two inventories. An endpoint of several pools joins with the first of them, and leaves
    with the last."""

    joined: tuple[Endpoint, ...]
    left: tuple[Endpoint, ...]
    readdressed: frozenset[str]
    """EDS service names whose addresses have changed, new and removed names included."""


class Datastore:
    """The endpoints of all pools.

    An endpoint is kept, with its metrics and in-flight requests, as long as a pool has the same model server at the
    same address. Pools share it.
    """

    def __init__(self) -> None:
        self._endpoints: Mapping[_EndpointKey, Endpoint] = {}
        self._pools: dict[PoolName, list[Endpoint]] = {}
        self._addresses: Mapping[str, tuple[str, ...]] = {}
        self._listeners: list[Callable[[MembershipChange], None]] = []

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints.values())

    def __len__(self) -> int:
        return len(self._endpoints)

    def of_pool(self, pool: PoolName) -> Sequence[Endpoint]:
        """The endpoints of a pool, updated in place while the pool exists. Empty for an unknown pool."""
        return self._pools.get(pool, [])

    def addresses(self, service_name: str) -> tuple[str, ...] | None:
        """The addresses of an EDS service name. None if no pool and no Service has it."""
        return self._addresses.get(service_name)

    def listen(self, listener: Callable[[MembershipChange], None]) -> None:
        """Call `listener` after each change from now on."""
        self._listeners.append(listener)

    def update(self, inventory: Inventory) -> MembershipChange:
        """Apply `inventory`. Calls the listeners if anything has changed."""
        servers: defaultdict[str, list[ModelServer]] = defaultdict(list)
        for server in inventory.servers:
            servers[server.namespace].append(server)
        keys = {name: _pool_keys(pool, servers[name.namespace]) for name, pool in inventory.resources.pools.items()}
        before, addresses_before = self._endpoints, self._addresses
        self._endpoints = {
            key: before.get(key) or Endpoint(key.address, key.server, labels)
            for of_pool in keys.values()
            for key, labels in of_pool.items()
        }
        for name in self._pools.keys() - keys.keys():
            self._pools.pop(name).clear()
        for name, of_pool in keys.items():
            self._pools.setdefault(name, [])[:] = [self._endpoints[key] for key in of_pool]
            for key, labels in of_pool.items():
                self._endpoints[key].labels = labels
        self._addresses = {
            **{str(name): tuple(key.address for key in of_pool) for name, of_pool in keys.items()},
            **dict(_service_addresses(inventory)),
        }
        change = MembershipChange(
            joined=tuple(endpoint for key, endpoint in self._endpoints.items() if key not in before),
            left=tuple(endpoint for key, endpoint in before.items() if key not in self._endpoints),
            readdressed=frozenset(
                name
                for name in addresses_before.keys() | self._addresses.keys()
                if addresses_before.get(name) != self._addresses.get(name)
            ),
        )
        if change.joined or change.left or change.readdressed:
            for listener in self._listeners:
                listener(change)
        return change


@dataclass(frozen=True, slots=True)
class _EndpointKey:
    """The identity of an endpoint. Another server at the same address has other caches and another load."""

    address: str
    namespace: str
    server: str


def _pool_keys(pool: InferencePool, servers: Iterable[ModelServer]) -> Mapping[_EndpointKey, Mapping[str, str]]:
    """A pool's endpoint keys with their labels. If two servers have one address, the first is used.

    Terminating servers that still serve are used if there are no others, as by kube-proxy (KEP-1669)."""
    own_port = len(pool.target_ports) == 1
    by_address: dict[str, tuple[_EndpointKey, Mapping[str, str]]] = {}
    selected = list(_selected(servers, pool.name.namespace, pool.selector))
    for server in [server for server in selected if not server.terminating] or selected:
        active = server.active_ports.ports
        for port in pool.target_ports:
            if active is not None and port not in active:
                continue
            address = join_address(server.address, server.port if own_port and server.port is not None else port)
            by_address.setdefault(address, (_EndpointKey(address, server.namespace, server.name), server.labels))
    return dict(by_address.values())


def _service_addresses(inventory: Inventory) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The addresses of each port of each Service. A Service without a selector has no known addresses."""
    for service in inventory.resources.services:
        servers = list(_selected(inventory.servers, service.name.namespace, service.spec.selector))
        for port in service.spec.ports:
            ports = ((server, _target_port(service, port, server)) for server in servers)
            addresses = dict.fromkeys(
                join_address(server.address, number) for server, number in ports if number is not None
            )
            yield service_key(service.name, port.port), tuple(addresses)


def _target_port(service: Service, port: ServicePort, server: ModelServer) -> int | None:
    """The port at which `server` serves a port of a Service. None for a target port that is a name.

    No source has the names of the servers' ports. A server with a port of its own needs no name.
    """
    target = port.target_port if port.target_port is not None else port.port
    if server.port is not None and (len(service.spec.ports) == 1 or isinstance(target, str)):
        return server.port
    return target if isinstance(target, int) else None


def _selected(servers: Iterable[ModelServer], namespace: str, selector: Mapping[str, str]) -> Iterator[ModelServer]:
    """The servers of a namespace that have all labels of a selector. None of them for an empty selector."""
    if not selector:
        return
    required = selector.items()
    for server in servers:
        if server.namespace == namespace and required <= server.labels.items():
            yield server
