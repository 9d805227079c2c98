"""Serves the endpoints of pools, Services and pickers to Envoy over gRPC: the endpoint discovery service (EDS)."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection

import grpc
import structlog
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.service.discovery.v3 import discovery_pb2

from picker.addresses import split_address
from picker.bounded_text import shorten
from picker.endpoints.datastore import Datastore, MembershipChange
from picker.xds.clusters import TLS_MARK
from picker.xds.grpc_bounds import SERVER_BOUNDS
from picker.xds.picker_ref import PickerName, Pickers
from picker.xds.protobuf import address, pack_any

SERVICE = "envoy.service.endpoint.v3.EndpointDiscoveryService"

_OPTIONS = (
    *SERVER_BOUNDS,
    # A request names the clusters of one stream: a thousand long names are 300 KB.
    ("grpc.max_receive_message_length", 1 << 20),
    # Envoy sends keepalive PINGs without data as long as nothing changes.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)

MAX_STREAMS = 10_000
"""Concurrent streams of all connections. A hundred pools and ten proxies have a thousand."""

log = structlog.get_logger(__name__)

_Request = discovery_pb2.DiscoveryRequest
_Response = discovery_pb2.DiscoveryResponse
_Call = grpc.aio.ServicerContext[_Request, _Response]


def load_assignment(
    name: str, addresses: Collection[str], *, tls: Collection[str] = (), failover: bool = False
) -> endpoint_pb2.ClusterLoadAssignment:
    """Returns `addresses` (`ip:port`) as the endpoints of the EDS name `name`.

    `tls`: the addresses that Envoy connects to by TLS. `failover`: each address has its own priority, so that Envoy
    uses the next one only if those before it accept no connections."""
    endpoints = [
        endpoint_components_pb2.LbEndpoint(endpoint=endpoint_components_pb2.Endpoint(address=address(host, port)))
        for host, port in map(split_address, addresses)
    ]
    for address_, endpoint in zip(addresses, endpoints, strict=True):
        if address_ in tls:
            endpoint.metadata.filter_metadata["envoy.transport_socket_match"].update(TLS_MARK)
    tiers = [[endpoint] for endpoint in endpoints] if failover else [endpoints]
    return endpoint_pb2.ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=tier, priority=priority)
            for priority, tier in enumerate(tiers)
        ],
    )


class EdsServer:
    """The EDS server: answers each of Envoy's streams, and again when its endpoints change.

    Unknown names are left out of the response, so that Envoy keeps its endpoints. An empty assignment would remove
    endpoints too early: the cluster may be about to be deleted, or this picker may not have read the pool yet."""

    def __init__(self, endpoints: Datastore, address: str, pickers: Pickers | None = None) -> None:
        """`address`: `host:port`; port 0 takes any free one (see `port`). Raises RuntimeError if it cannot be bound."""
        self._endpoints = endpoints
        self._pickers = pickers
        self._streams: set[_Stream] = set()
        self._versions = itertools.count(1)
        self._version = next(self._versions)
        self._server = grpc.aio.server(options=_OPTIONS)
        handler: grpc.RpcMethodHandler[_Request, _Response] = grpc.stream_stream_rpc_method_handler(
            self._stream_endpoints,
            request_deserializer=_Request.FromString,
            response_serializer=_Response.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"StreamEndpoints": handler}),)
        )
        self.port = self._server.add_insecure_port(address)
        endpoints.listen(self._changed)
        if pickers is not None:
            pickers.listen(self._changed)

    async def start(self) -> None:
        """Starts to listen. Must be called after `endpoints` has its first inventory."""
        await self._server.start()

    async def stop(self) -> None:
        """Ends all streams. Envoy keeps its endpoints."""
        await self._server.stop(None)

    def _changed(self, change: MembershipChange) -> None:
        self._version = next(self._versions)
        for stream in self._streams:
            if not change.readdressed.isdisjoint(stream.names):
                stream.due.set()

    async def _stream_endpoints(self, requests: AsyncIterator[_Request], call: _Call) -> None:
        if len(self._streams) >= MAX_STREAMS:
            await call.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"limit of {MAX_STREAMS} concurrent streams reached")
        stream = _Stream()
        self._streams.add(stream)
        reading = asyncio.create_task(stream.read(requests))
        try:
            while await stream.next_response_due():
                if (response := self._response(stream)) is not None:
                    await call.write(response)
        finally:
            self._streams.discard(stream)
            reading.cancel()

    def _response(self, stream: "_Stream") -> _Response | None:
        """Returns None if none of the stream's names is known."""
        known = [assignment for name in stream.names if (assignment := self._assignment(name)) is not None]
        if not known:
            return None
        return _Response(
            version_info=str(self._version),
            nonce=str(next(stream.nonces)),
            type_url=pack_any(endpoint_pb2.ClusterLoadAssignment()).type_url,
            resources=[pack_any(assignment) for assignment in known],
        )

    def _assignment(self, name: str) -> endpoint_pb2.ClusterLoadAssignment | None:
        picker = PickerName.of_text(name)
        if picker is not None:
            replicas = self._pickers.replicas(picker) if self._pickers is not None else None
            if replicas is None:
                return None
            return load_assignment(name, replicas.addresses, tls=replicas.with_tls, failover=replicas.failover)
        addresses = self._endpoints.addresses(name)
        return load_assignment(name, addresses) if addresses is not None else None


class _Stream:
    """The names that one stream subscribes to, and whether a response is due."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.due = asyncio.Event()
        self.nonces = itertools.count(1)
        self._ended = False

    async def read(self, requests: AsyncIterator[_Request]) -> None:
        """Reads the requests until the stream ends. Most only acknowledge; one with new names makes a response due."""
        try:
            async for request in requests:
                if request.HasField("error_detail"):
                    detail = shorten(request.error_detail.message)
                    log.warning("eds.config_rejected", names=shorten(", ".join(self.names)), detail=detail)
                names = tuple(sorted(request.resource_names))
                if names != self.names:
                    self.names = names
                    self.due.set()
        finally:
            self._ended = True
            self.due.set()

    async def next_response_due(self) -> bool:
        """Waits until a response is due. Returns False if the stream has ended."""
        await self.due.wait()
        self.due.clear()
        return not self._ended
