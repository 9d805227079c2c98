"""`picker gateway`: the extension of Envoy Gateway for InferencePools.

It runs the hooks, serves the endpoints of pools and pickers to Envoy (EDS), writes statuses, and renews
certificates."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Collection

import grpc
import structlog
from lightkube import AsyncClient

from picker.addresses import check_free
from picker.commands.serve import stop_on_signal
from picker.controller.certificate_secrets import Certificates, CertificateSecrets, PickerTlsSecrets
from picker.controller.leader_election import LeaderElector
from picker.controller.picker_endpoints import PickerEndpoints
from picker.controller.route_annotations import (
    MODELS_ANNOTATION,
    RENEWALS_ANNOTATION,
    SPREAD_S,
    WATCH_SPREAD_S,
    RouteAnnotations,
)
from picker.controller.route_backends import ApiRuleLookup
from picker.controller.status_writer import StatusWriter
from picker.endpoints.datastore import Datastore
from picker.logs import configure_logging
from picker.observability.admin import metrics_app
from picker.observability.certificates import CertificateExpiry
from picker.observability.http_server import http_server
from picker.observability.registry import process_registry
from picker.resources.names import ObjectName, PoolName
from picker.settings import GatewaySettings
from picker.sources.api_metrics import API_METRICS
from picker.sources.cluster import ClusterSource
from picker.sources.informer import kubernetes_client
from picker.sources.inventory import Inventory
from picker.xds.eds_server import EdsServer
from picker.xds.extension import Extension, ExtensionConfig
from picker.xds.extension_server import ExtensionServer, ServerTls
from picker.xds.grpc_bounds import SERVER_BOUNDS
from picker.xds.health import Health
from picker.xds.model_names import DeclaredModels

LEASE = "inference-gateway-status"

STARTUP_S = 10.0
"""Limit of the wait for the pickers' Services before the extension is ready. A Service that cannot be listed affects
only its pools. Judgement."""

log = structlog.get_logger(__name__)


class GatewayServer:
    """One replica of the extension with all its parts. `run` it once."""

    def __init__(self, settings: GatewaySettings, client: AsyncClient) -> None:
        """Must be called in the event loop that runs it. Raises AddressTaken."""
        names = ("extension_address", "xds_address", "health_address", "metrics_address")
        check_free({name: address for name in names if (address := getattr(settings, name)) is not None})
        self.registry = process_registry()
        self.registry.register(API_METRICS)
        """The metrics of `/metrics`."""
        self._endpoints = Datastore()
        self._source = ClusterSource(client, reads_adapters=settings.adapter_config_maps)
        self._pickers = PickerEndpoints(client)
        self._discovery = EdsServer(self._endpoints, settings.xds_address, self._pickers)
        shared = settings.shared_picker
        extension = Extension(
            ExtensionConfig(
                eds_target=settings.eds_target,
                cluster_domain=settings.cluster_domain,
                max_body_bytes=settings.max_body_bytes,
                shared_picker=ObjectName.parse(shared) if shared is not None else None,
                sharing_namespaces=frozenset(settings.sharing_namespaces),
            )
        )
        self._lookup = ApiRuleLookup(client)
        self._health = Health()
        self._health_server = grpc.aio.server(options=SERVER_BOUNDS)
        self._health.add_to(self._health_server)
        self._health_server.add_insecure_port(settings.health_address)
        self._lease = LeaderElector(client, ObjectName(settings.namespace, LEASE), socket.gethostname())
        self._status = StatusWriter(client, settings.controller_name, extension.service)
        self._extension = extension
        self._secrets: CertificateSecrets | None = None
        self._certificates: Certificates | None = None
        self._models = RouteAnnotations(client, MODELS_ANNOTATION, lambda route: route.matches_by_model, WATCH_SPREAD_S)
        self._annotations: RouteAnnotations | None = None
        self._tls_pools: Collection[PoolName] = ()
        if settings.tls_picker is not None:
            picker = ObjectName.parse(settings.tls_picker)
            self._annotations = RouteAnnotations(
                client,
                RENEWALS_ANNOTATION,
                lambda route: not set(route.pools()).isdisjoint(self._tls_pools),
                SPREAD_S,
                # The first translation has the first certificates.
                first="0",
            )
            self._tls_picker = picker
            self._secrets = CertificateSecrets(
                client, PickerTlsSecrets(picker, settings.namespace, settings.cluster_domain)
            )
            self.registry.register(CertificateExpiry(self._certificates_by_name))
        self._has_certificates = asyncio.Event()
        self._ready = False
        self._settings = settings

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set."""
        inventories = self._source.inventories()
        async with asyncio.TaskGroup() as tasks, self._metrics_server():
            await self._health.ready(False)
            await self._health_server.start()
            self._pickers.start(tasks)
            self._apply(await anext(inventories))
            await self._pickers.wait_until_listed(STARTUP_S)
            background = [
                tasks.create_task(self._follow(inventories)),
                tasks.create_task(self._lease.run(self._status.run)),
                tasks.create_task(self._models.keep()),
            ]
            if self._secrets is not None and self._annotations is not None:
                background.append(tasks.create_task(self._secrets.keep()))
                background.append(tasks.create_task(self._secrets.follow(self._use_certificates)))
                background.append(tasks.create_task(self._annotations.keep()))
                await self._has_certificates.wait()
            await self._discovery.start()
            server = ExtensionServer(
                self._extension,
                self._lookup,
                self._pickers,
                self._settings.extension_address,
                self._server_tls if self._secrets is not None else None,
            )
            self.registry.register(server.metrics)
            await server.start()
            await self._set_ready(True)
            log.info("gateway.ready", extension=self._settings.extension_address, eds=self._settings.eds_target)
            await stop.wait()
            log.info("gateway.stopping")
            await self._set_ready(False)
            for task in background:
                task.cancel()
            self._pickers.follow(())
            await server.stop()
            await self._discovery.stop()
        await self._health_server.stop(None)

    @contextlib.asynccontextmanager
    async def _metrics_server(self) -> AsyncGenerator[None]:
        address = self._settings.metrics_address
        if address is None:
            yield
            return
        async with http_server(address, metrics_app(lambda: self._ready, self.registry)):
            yield

    async def _set_ready(self, is_ready: bool) -> None:
        self._ready = is_ready
        await self._health.ready(is_ready)

    def _use_certificates(self, certificates: Certificates) -> None:
        self._certificates = certificates
        self._extension.picker_tls = certificates.picker
        if self._annotations is not None:
            self._annotations.require(str(certificates.renewals))
        self._has_certificates.set()

    def _certificates_by_name(self) -> dict[str, bytes]:
        """The certificates whose expiry is a metric; none before the first exist."""
        if self._certificates is None:
            return {}
        return {"envoy": self._certificates.picker.certificate, "authority": self._certificates.trusted}

    def _server_tls(self) -> ServerTls:
        """The current certificates of the extension's port."""
        assert self._certificates is not None
        server = self._certificates.server
        return ServerTls(server.certificate, server.key, self._certificates.trusted)

    async def _follow(self, inventories: AsyncIterator[Inventory]) -> None:
        async for inventory in inventories:
            self._apply(inventory)

    def _apply(self, inventory: Inventory) -> None:
        pools = inventory.resources.pools.values()
        try:
            self._pickers.follow(picker for pool in pools if (picker := self._extension.picker(pool)) is not None)
            if self._annotations is not None:
                self._tls_pools = {
                    pool.name
                    for pool in pools
                    if (picker := self._extension.picker(pool)) is not None and picker.service == self._tls_picker
                }
            self._extension.declared = declared = DeclaredModels.of(inventory.resources)
            self._models.require(declared.digest)
            self._endpoints.update(inventory)
        except Exception:
            # The previous inventory remains in use, and the next change is applied.
            API_METRICS.failed("Inventory", "internal")
            log.exception("inventory.apply_failed")


async def serve_gateway(settings: GatewaySettings) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit status."""
    configure_logging(settings.log_level, settings.log_format)
    await GatewayServer(settings, kubernetes_client()).run(stop_on_signal())
    return 0
