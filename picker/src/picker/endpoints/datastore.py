"""Which endpoints the pools have, and which addresses the Services, by the newest inventory.

Both are known to Envoy by a name of theirs, under which it asks for their addresses (EDS `service_name`):
`str(PoolName)` of a pool, `service/NAMESPACE/NAME/PORT` of a port of a Service."""

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
    """What an inventory changed. An endpoint of several pools joins with the first and leaves with the last of them."""

    joined: tuple[Endpoint, ...]
    left: tuple[Endpoint, ...]
    readdressed: frozenset[str]
    """EDS service names whose addresses are others now, those that came or went among them."""


class Datastore:
    """The endpoints of all pools. An endpoint lives on from inventory to inventory, with its metrics and what is in
    flight there, as long as some pool has the same model server at the same address; pools share it."""

    def __init__(self) -> None:
        self._endpoints: Mapping[_Place, Endpoint] = {}
        self._pools: dict[PoolName, list[Endpoint]] = {}
        self._addresses: Mapping[str, tuple[str, ...]] = {}
        self._listeners: list[Callable[[MembershipChange], None]] = []

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints.values())

    def __len__(self) -> int:
        return len(self._endpoints)

    def of_pool(self, pool: PoolName) -> Sequence[Endpoint]:
        """The endpoints of a pool, kept up to date in place while the pool exists; empty for an unknown one."""
        return self._pools.get(pool, [])

    def addresses(self, service_name: str) -> tuple[str, ...] | None:
        """The addresses behind an EDS service name; None when no pool or Service has it."""
        return self._addresses.get(service_name)

    def listen(self, listener: Callable[[MembershipChange], None]) -> None:
        """Call `listener` after each change from now on."""
        self._listeners.append(listener)

    def update(self, inventory: Inventory) -> MembershipChange:
        """Follow `inventory`; the listeners hear of it if anything has changed."""
        servers: defaultdict[str, list[ModelServer]] = defaultdict(list)
        for server in inventory.servers:
            servers[server.namespace].append(server)
        places = {
            name: _places_of_pool(pool, servers[name.namespace]) for name, pool in inventory.resources.pools.items()
        }
        before, addresses_before = self._endpoints, self._addresses
        self._endpoints = {
            place: before.get(place) or Endpoint(place.address, place.server, labels)
            for of_pool in places.values()
            for place, labels in of_pool.items()
        }
        for name in self._pools.keys() - places.keys():
            self._pools.pop(name).clear()
        for name, of_pool in places.items():
            self._pools.setdefault(name, [])[:] = [self._endpoints[place] for place in of_pool]
            for place, labels in of_pool.items():
                self._endpoints[place].labels = labels
        self._addresses = {
            **{str(name): tuple(place.address for place in of_pool) for name, of_pool in places.items()},
            **dict(_service_addresses(inventory)),
        }
        change = MembershipChange(
            joined=tuple(endpoint for place, endpoint in self._endpoints.items() if place not in before),
            left=tuple(endpoint for place, endpoint in before.items() if place not in self._endpoints),
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
class _Place:
    """What makes an endpoint the same one: another server at the same address has other caches and other load."""

    address: str
    namespace: str
    server: str


def _places_of_pool(pool: InferencePool, servers: Iterable[ModelServer]) -> Mapping[_Place, Mapping[str, str]]:
    """A pool's places and the labels there. Of two servers that claim one address the first has it."""
    own_port = len(pool.target_ports) == 1
    by_address: dict[str, tuple[_Place, Mapping[str, str]]] = {}
    for server in _selected(servers, pool.name.namespace, pool.selector):
        for port in pool.target_ports:
            address = join_address(server.address, server.port if own_port and server.port is not None else port)
            by_address.setdefault(address, (_Place(address, server.namespace, server.name), server.labels))
    return dict(by_address.values())


def _service_addresses(inventory: Inventory) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The addresses behind each port of each Service. A Service without a selector has none that we know of."""
    for service in inventory.resources.services:
        servers = list(_selected(inventory.servers, service.name.namespace, service.spec.selector))
        for port in service.spec.ports:
            ports = ((server, _target_port(service, port, server)) for server in servers)
            addresses = dict.fromkeys(
                join_address(server.address, number) for server, number in ports if number is not None
            )
            yield service_key(service.name, port.port), tuple(addresses)


def _target_port(service: Service, port: ServicePort, server: ModelServer) -> int | None:
    """Where `server` serves a port of a Service. None for a port that is known by name only: no source tells the names
    of the servers' ports, and only a server with a port of its own needs none."""
    target = port.target_port if port.target_port is not None else port.port
    if server.port is not None and (len(service.spec.ports) == 1 or isinstance(target, str)):
        return server.port
    return target if isinstance(target, int) else None


def _selected(servers: Iterable[ModelServer], namespace: str, selector: Mapping[str, str]) -> Iterator[ModelServer]:
    """The servers of a namespace that carry all labels of a selector; none for an empty selector."""
    if not selector:
        return
    wanted = selector.items()
    for server in servers:
        if server.namespace == namespace and wanted <= server.labels.items():
            yield server
