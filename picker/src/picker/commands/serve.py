"""`picker serve`: sets up and runs the parts of one picker."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from random import Random
from secrets import token_hex
from typing import TYPE_CHECKING

import structlog

from picker.addresses import allow_many_sockets, check_free
from picker.commands import garbage_collector
from picker.commands.kv_event_start import KvEventStart
from picker.commands.reconcile import Reconciler
from picker.endpoints.datastore import Datastore
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.metrics.schedule import ScrapeIntervals
from picker.endpoints.metrics.scraper import Scraper, ScrapeSettings
from picker.extproc.exchange import Exchange, Limits
from picker.extproc.read_headers import ReadHeaders
from picker.extproc.server import ExtProcServer
from picker.grpc_server.tls import TlsFiles
from picker.logs import configure_logging
from picker.observability.admin import EndpointState, admin_app, endpoint_state, metrics_app
from picker.observability.flow_control_metrics import FlowControlMetrics
from picker.observability.http_server import http_server
from picker.observability.peer_metrics import PeerMetrics
from picker.observability.registry import process_registry
from picker.observability.setup import Observability
from picker.peers.publisher import Publisher
from picker.requestcontrol.director import Director
from picker.requestcontrol.flowcontrol.controller import TICK_S, FlowControl
from picker.requestcontrol.flowcontrol.queue import Bounds
from picker.resources.inference import InferencePool
from picker.resources.names import ObjectName
from picker.settings import ServeSettings
from picker.sources.api_metrics import API_METRICS
from picker.sources.folder import FolderSource
from picker.sources.inventory import Inventory, Source
from picker.xds.eds_server import EdsServer

if TYPE_CHECKING:
    from picker.commands.peers import PeerMode
    from picker.observability.certificates import CertificateExpiry

_ADDRESSES = ("ext_proc_address", "health_address", "xds_address", "admin_address", "metrics_address", "peer_address")

log = structlog.get_logger(__name__)


class Picker:
    """All parts of one picker: source, endpoints, scraper, director, and the servers that Envoy calls."""

    def __init__(self, settings: ServeSettings, source: Source) -> None:
        """Must be called in the event loop of `run`. Raises AddressTaken, CertificatesUnusable, ExtraMissing,
        LogUnusable."""
        addresses = {
            name: getattr(settings, name)
            for name in _ADDRESSES
            if getattr(settings, name) is not None and (name != "xds_address" or _serves_endpoints(settings))
        }
        check_free(addresses)
        self._addresses = addresses
        self._settings = settings
        self._source = source
        self._endpoints = Datastore()
        self.tracker = InFlightTracker()
        """Counts the requests in flight through this picker."""
        rng = Random()
        # Scrapes have timestamps of the event loop's clock.
        clock = asyncio.get_running_loop().time
        self.observability = Observability(settings, lambda: self._reconciler.served, clock, lambda: source.refused)
        publisher = Publisher(clock, token_hex(8)) if settings.peer_address is not None else None
        self.director = director = Director(
            self.tracker,
            clock,
            rng,
            unknown_models=settings.unknown_models == "pass",
            sample_all=_samples_all_responses(settings),
            observers=(*self.observability.observers, *([publisher] if publisher is not None else [])),
            timer=self.observability.timer,
        )
        intervals = ScrapeIntervals(
            settings.scrape_interval_s, settings.scrape_max_interval_s, settings.scrape_server_share
        )
        scraping = ScrapeSettings(intervals, settings.scrape_timeout_s)
        self._scraper = Scraper(scraping, self.tracker, rng, self.observability.metrics.scraped)
        self._kv_events = KvEventStart(settings, director, self._cache_cleared)
        self._reconciler = Reconciler(self._endpoints, self._scraper, director, rng, settings.pool, self._kv_events)
        self.tracker.on_restarted = self._cache_cleared
        self.peers = self._peer_mode(publisher) if publisher is not None else None
        """The exchange with the other replicas; None if it is disabled."""
        self.flow_control = self._flow_control(director)
        read_headers = ReadHeaders.of(
            settings.trusted_headers,
            settings.session_headers,
            agents=settings.agent_sessions,
            legacy=settings.legacy_names,
        )
        limits = Limits(
            settings.max_body_bytes,
            read_headers,
            settings.predict_ttft,
            settings.only_best_endpoint,
        )
        self._ext_proc = ExtProcServer(
            lambda: Exchange(director, limits, queue=self.flow_control),
            settings.ext_proc_address,
            settings.health_address,
            _tls(settings),
            settings.silent_stream_limit_s,
            settings.session_headers,
        )
        self._discovery = EdsServer(self._endpoints, settings.xds_address) if _serves_endpoints(settings) else None
        self.registry = process_registry()
        """The metrics of `/metrics`."""
        self.registry.register(API_METRICS)
        self.observability.register(self.registry)
        if self.peers is not None:
            self.registry.register(PeerMetrics(self.peers.clients))
        flow_control_metrics = FlowControlMetrics(
            self.flow_control.waiting,
            lambda: [pool for pool in self._reconciler.served if self.flow_control.queues_for(pool)],
            clock,
        )
        self.flow_control.on_outcome = flow_control_metrics.count
        self.registry.register(flow_control_metrics)
        self.certificates = _certificate_expiry(settings)
        """The remaining validity of the certificates; None without TLS."""
        if self.certificates is not None:
            self.registry.register(self.certificates)
        self._ready = False

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set, then drains. May be called once. Raises InvalidManifests if the first inventory
        of the source is invalid."""
        inventories = self._source.inventories()
        self._apply(await anext(inventories))
        async with asyncio.TaskGroup() as tasks, _http_servers(self._settings, self):
            reconciling = tasks.create_task(self._reconcile(inventories))
            if self._discovery is not None:
                await self._discovery.start()
            await self._ext_proc.start()
            garbage_collector.tune()
            await self._set_ready(True)
            for name, left_s in (self.certificates.soon() if self.certificates is not None else {}).items():
                log.warning("picker.certificate_expires_soon", certificate=name, days=round(left_s / 86_400, 1))
            log.info("picker.ready", **self._addresses)
            background = [tasks.create_task(_tick(self.flow_control))]
            if self.peers is not None:
                await self.peers.start()
                background.append(tasks.create_task(self.peers.run()))
            stopping = tasks.create_task(stop.wait())
            await asyncio.wait((reconciling, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            for task in background:
                task.cancel()
            await self._kv_events.stop()
            await self._drain()
            reconciling.cancel()

    @property
    def ready(self) -> bool:
        return self._ready

    def endpoint_states(self) -> Iterator[EndpointState]:
        """Yields the endpoints of all pools. An endpoint of several pools is repeated for each."""
        now_s = asyncio.get_running_loop().time()
        for served in list(self._reconciler.served):
            label = served.label
            for endpoint in list(served.endpoints):
                yield endpoint_state(label, endpoint, now_s, served.prefixes)

    async def _reconcile(self, inventories: AsyncIterator[Inventory]) -> None:
        async for inventory in inventories:
            self._apply(inventory)

    def _apply(self, inventory: Inventory) -> None:
        try:
            self._reconciler.follow(inventory.of_pools(pool_filter(self._settings)))
        except Exception:
            # The previous inventory is still served, and the next one is applied.
            API_METRICS.failed("Inventory", "internal")
            log.exception("inventory.apply_failed")
        self.observability.pools_changed()

    def _cache_cleared(self, endpoint: Endpoint) -> None:
        """Called when an endpoint's prefix cache is empty: it reports that, or has restarted."""
        self._reconciler.forget(endpoint)

    def _peer_mode(self, publisher: Publisher) -> "PeerMode":
        # With the client of Kubernetes it takes as long to import as all the rest.
        from picker.commands.peers import PeerMode

        return PeerMode(
            self._settings,
            _tls(self._settings),
            publisher,
            self.tracker,
            self._endpoints,
            self.director,
            lambda: self._reconciler.served,
        )

    def _flow_control(self, director: Director) -> FlowControl:
        settings, loop = self._settings, asyncio.get_running_loop()
        bounds = Bounds(settings.flow_control_max_requests, settings.flow_control_max_bytes)
        flow_control = FlowControl(
            director,
            loop.time,
            loop.call_soon,
            bounds,
            settings.flow_control_time_limit_s,
            enabled=settings.flow_control,
        )
        self.tracker.on_freed = flow_control.freed
        return flow_control

    async def _set_ready(self, is_ready: bool) -> None:
        self._ready = is_ready
        await self._ext_proc.ready(is_ready)

    async def _drain(self) -> None:
        began_s = time.monotonic()
        log.info("picker.draining", in_flight=self.tracker.total.requests)
        await self._set_ready(False)
        self.flow_control.stop()
        await self._ext_proc.drain(self._settings.drain_s)
        if self.peers is not None:
            # After the requests, whose ends it reports.
            await self.peers.stop()
        if self._discovery is not None:
            await self._discovery.stop()
        self._scraper.close()
        await self.observability.close()
        log.info("picker.stopped", drained_s=round(time.monotonic() - began_s, 3))


@contextlib.asynccontextmanager
async def _http_servers(settings: ServeSettings, picker: Picker) -> AsyncGenerator[None]:
    async with contextlib.AsyncExitStack() as stack:
        admin = admin_app(lambda: picker.ready, picker.endpoint_states, picker.registry, picker.observability.pages())
        await stack.enter_async_context(http_server(settings.admin_address, admin))
        if settings.metrics_address is not None:
            public = metrics_app(lambda: picker.ready, picker.registry)
            await stack.enter_async_context(http_server(settings.metrics_address, public))
        yield


async def serve(settings: ServeSettings) -> int:
    """Runs a picker until SIGTERM or SIGINT. Returns the exit status."""
    configure_logging(settings.log_level, settings.log_format)
    allow_many_sockets()
    picker = Picker(settings, _source(settings))
    await picker.run(stop_on_signal())
    return 0


async def _tick(flow_control: FlowControl) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        flow_control.tick()


def _serves_endpoints(settings: ServeSettings) -> bool:
    """Whether the picker runs an EDS server. In a cluster the extension does, and the picker needs no open port."""
    return settings.manifests is not None


def _source(settings: ServeSettings) -> Source:
    if settings.manifests is not None and settings.endpoints is not None:
        return FolderSource(settings.manifests, settings.endpoints)
    # Imported only with a cluster: the client takes as long to import as all the rest, and a picker has to restart
    # quickly.
    from picker.sources.cluster import ClusterSource
    from picker.sources.informer import kubernetes_client

    return ClusterSource(kubernetes_client(), settings.namespace, pool_filter(settings))


def pool_filter(settings: ServeSettings) -> Callable[[InferencePool], bool]:
    """Returns whether a picker serves a pool: the pool is the setting `pool`, or names the picker's Service."""
    if settings.pool is not None:
        return lambda pool: pool.name.label == settings.pool
    if settings.service == "*":
        return lambda _: True
    own = ObjectName.parse(settings.service)
    namespaces = {own.namespace, *settings.sharing_namespaces}

    def names_this_picker(pool: InferencePool) -> bool:
        named = pool.picker.service if pool.picker is not None else None
        return named is not None and named.name == own.name and named.namespace in namespaces

    return names_this_picker


def _samples_all_responses(settings: ServeSettings) -> bool:
    """Whether Envoy has to send the response headers of every request."""
    return settings.response_header_sampling == "all" or bool(settings.access_log or settings.traces_endpoint)


def _tls(settings: ServeSettings) -> TlsFiles | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def _certificate_expiry(settings: ServeSettings) -> "CertificateExpiry | None":
    files = _tls(settings)
    if files is None:
        return None
    # Imported only with TLS: the library takes as long to import as a picker takes to start.
    from picker.observability.certificates import CertificateExpiry, read_files

    return CertificateExpiry(lambda: read_files({"server": files.certificate, "client_ca": files.client_ca}))


def stop_on_signal() -> asyncio.Event:
    """Returns an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
