"""The exchange between replicas of the picker. Without the setting `peer_address` this module is not imported."""

from collections.abc import Callable, Iterable

from picker.addresses import join_address, split_address
from picker.controller.api_objects import ENDPOINT_SLICE, SERVICE_OF_SLICE, EndpointSlice, read_slice
from picker.endpoints.datastore import Datastore, MembershipChange
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.grpc_server.tls import TlsFiles
from picker.peers.client import PeerClients
from picker.peers.publisher import Publisher
from picker.peers.server import PeerServer
from picker.requestcontrol.director import Director
from picker.requestcontrol.served_pool import ServedPool
from picker.resources.names import ObjectName
from picker.settings import ServeSettings
from picker.sources.informer import Informer, kubernetes_client


class PeerMode:
    """Serves this picker's requests to its peers, and counts theirs. `start` it, and `run` it as long as the picker
    runs."""

    def __init__(
        self,
        settings: ServeSettings,
        tls: TlsFiles | None,
        publisher: Publisher,
        tracker: InFlightTracker,
        endpoints: Datastore,
        director: Director,
        served: Callable[[], Iterable[ServedPool]],
    ) -> None:
        """Raises OSError if the address cannot be bound, and CertificatesUnusable."""
        assert settings.peer_address is not None
        self._settings = settings
        self._endpoints = endpoints
        self._director = director
        self._served = served
        self._by_name: dict[tuple[str, str], Endpoint] = {}
        self.server = PeerServer(publisher, self._pools, settings.peer_address, tls)
        self.clients = PeerClients(tracker, self, publisher.instance, tls)
        endpoints.listen(self._endpoints_changed)

    async def start(self) -> None:
        await self.server.start()
        if self._settings.peers or self._settings.manifests is not None:
            self.clients.follow(self._settings.peers)

    async def run(self) -> None:
        """Follow the EndpointSlices of the picker's Service, unless the settings name the peers."""
        if self._settings.peers or self._settings.manifests is not None:
            return
        service = ObjectName.parse(self._settings.service)
        slices = Informer(
            kubernetes_client(), ENDPOINT_SLICE, read_slice, service.namespace, {SERVICE_OF_SLICE: service.name}
        )
        assert self._settings.peer_address is not None
        _, port = split_address(self._settings.peer_address)
        await slices.follow(lambda: self.clients.follow(peer_addresses(slices.objects.values(), port)))

    async def stop(self) -> None:
        """Report what has ended, and end the exchange."""
        await self.server.stop()
        await self.clients.stop()

    def endpoint(self, address: str, server: str) -> Endpoint | None:
        """Implements `Directory`."""
        return self._by_name.get((address, server))

    def prefixes(self, pool: str) -> PrefixIndex | None:
        """Implements `Directory`."""
        served = self._director.served(pool)
        return served.prefixes if served is not None else None

    def _pools(self) -> Iterable[tuple[str, PrefixIndex, Iterable[Endpoint]]]:
        return [(served.key, served.prefixes, served.endpoints) for served in self._served()]

    def _endpoints_changed(self, change: MembershipChange) -> None:
        self._by_name = {(endpoint.address, endpoint.server): endpoint for endpoint in self._endpoints}
        if change.joined:
            for state in self.clients.states():
                state.joined(change.joined)


def peer_addresses(slices: Iterable[EndpointSlice], port: int) -> set[str]:
    """Returns the addresses of all pods of a Service at `port`. Those that are not ready may have requests in flight:
    they drain, or have just started."""
    return {
        join_address(endpoint.addresses[0], port)
        for endpoint_slice in slices
        for endpoint in endpoint_slice.endpoints or ()
        if endpoint.addresses
    }
