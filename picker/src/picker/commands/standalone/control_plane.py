"""Envoy's configuration on one machine: written from the first inventory, and changed with each one after."""

from collections.abc import Iterator
from pathlib import Path

import structlog
from envoy.config.core.v3 import config_source_pb2
from google.protobuf.json_format import MessageToJson

from picker.addresses import join_address, split_address
from picker.commands.standalone.envoy_process import ConfigurationNotTaken, EnvoyAdmin
from picker.settings import StandaloneSettings
from picker.sources.inventory import Inventory
from picker.xds.bootstrap import BOOTSTRAP_FILE, bootstrap, routes_file
from picker.xds.config_source import file_source
from picker.xds.file_config import FileConfig, Versions
from picker.xds.translate import EnvoyConfig, TranslateOptions, translate

log = structlog.get_logger(__name__)

TAKE_TIMEOUT_S = 5.0
"""For Envoy to run a changed configuration. A new cluster waits up to 2 s for its endpoints, and nothing else waits."""


class ControlPlane:
    """Turns inventories into files that Envoy watches."""

    def __init__(self, settings: StandaloneSettings, folder: Path, admin: EnvoyAdmin) -> None:
        """`folder`: for Envoy's configuration; created where it is missing."""
        self._settings = settings
        self._folder = folder
        self._admin = admin
        self._files = FileConfig(folder)
        self._config = EnvoyConfig((), (), (), ())
        self._first: Versions = {}
        self._listening: dict[str, str] = {}

    @property
    def bootstrap_file(self) -> Path:
        return self._folder / BOOTSTRAP_FILE

    def begin(self, inventory: Inventory) -> None:
        """Write everything that Envoy starts with."""
        config = self._config = self._translated(inventory)
        self._folder.mkdir(parents=True, exist_ok=True)
        host, port = split_address(self._settings.envoy_admin_address)
        self.bootstrap_file.write_text(MessageToJson(bootstrap(host, port, self._folder)))
        self._first = self._files.write_clusters(config) | self._files.write_routes(config)
        self._first |= self._files.write_listeners(config)

    async def confirm(self) -> None:
        """Once Envoy is ready: log where it listens, or what it did not take of what it started with."""
        if await self._taken(self._first):
            self._tell()

    def listen_addresses(self) -> Iterator[tuple[str, str]]:
        """Each listener's name and its `ip:port`."""
        for listener in self._config.listeners:
            where = listener.address.socket_address
            yield listener.name, join_address(where.address, where.port_value)

    async def follow(self, inventory: Inventory) -> None:
        """Change Envoy over to `inventory`, in an order in which no route leads to a cluster that is not there, and no
        listener to routes that are not there."""
        old, new = self._config, self._translated(inventory)
        if new == old:
            return
        self._config = new
        await self._taken(self._files.write_clusters(old, new))
        routes = self._files.write_routes(new)
        if await self._taken(routes | self._files.write_listeners(new)):
            self._tell()
        self._files.write_clusters(new)

    async def _taken(self, versions: Versions) -> bool:
        """Whether Envoy has them, at last. Where it refuses one, the rest still goes on: one listener whose port is
        taken does not hold up the others."""
        try:
            await self._admin.wait_for(versions, TAKE_TIMEOUT_S)
        except ConfigurationNotTaken as error:
            log.error("envoy.config_rejected", detail=str(error), hint="Envoy's own lines above say why")
            return False
        return True

    def _tell(self) -> None:
        """Log what has changed in where Envoy listens, and in what it does not because something has its place."""
        listening = dict(self.listen_addresses())
        for name in self._listening.keys() - listening.keys():
            log.info("gateway.closed", listener=name)
        for name, address in listening.items():
            if self._listening.get(name) != address:
                log.info("gateway.listening", listener=name, address=address)
        for conflict in self._config.conflicts:
            log.warning("gateway.conflict", problem=conflict)
        self._listening = listening

    def _translated(self, inventory: Inventory) -> EnvoyConfig:
        settings = self._settings
        picker_host, picker_port = split_address(settings.ext_proc_address)
        surroundings = TranslateOptions(
            listen_ip=settings.listen_ip,
            picker_host=picker_host,
            picker_port=picker_port,
            eds_target=settings.xds_address,
            route_source=self._route_source,
            max_body_bytes=settings.max_body_bytes,
        )
        return translate(inventory.resources, surroundings)

    def _route_source(self, name: str) -> config_source_pb2.ConfigSource:
        return file_source(self._folder / routes_file(name))
