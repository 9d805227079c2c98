"""Envoy's configuration on one machine, written from the first inventory and updated with each later one."""

from collections.abc import Iterator
from pathlib import Path

import structlog
from envoy.config.core.v3 import config_source_pb2
from google.protobuf.json_format import MessageToJson

from picker.addresses import join_address, split_address
from picker.commands.standalone.envoy_process import ConfigRejected, EnvoyAdmin
from picker.settings import StandaloneSettings
from picker.sources.inventory import Inventory
from picker.xds.bootstrap import BOOTSTRAP_FILE, bootstrap, routes_file
from picker.xds.config_source import file_source
from picker.xds.file_config import FileConfig, Versions
from picker.xds.translate import EnvoyConfig, TranslateOptions, translate

log = structlog.get_logger(__name__)

APPLY_TIMEOUT_S = 5.0
"""Limit for Envoy to apply a changed configuration. A new cluster waits up to 2 s for its endpoints; nothing else
waits."""


class ControlPlane:
    """Translates inventories to files that Envoy watches."""

    def __init__(self, settings: StandaloneSettings, folder: Path, admin: EnvoyAdmin) -> None:
        """`folder`: holds Envoy's configuration; created if it is missing."""
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
        """Writes the bootstrap and the first configuration."""
        config = self._config = self._translated(inventory)
        self._folder.mkdir(parents=True, exist_ok=True)
        host, port = split_address(self._settings.envoy_admin_address)
        self.bootstrap_file.write_text(MessageToJson(bootstrap(host, port, self._folder)))
        self._first = self._files.write_clusters(config) | self._files.write_routes(config)
        self._first |= self._files.write_listeners(config)

    async def confirm(self) -> None:
        """Waits until Envoy has applied the first configuration, then logs its listeners, or what it rejected. Call it
        once Envoy is ready."""
        if await self._accepted(self._first):
            self._log_listeners()

    def listen_addresses(self) -> Iterator[tuple[str, str]]:
        """Yields each listener's name and its `ip:port`."""
        for listener in self._config.listeners:
            socket_address = listener.address.socket_address
            yield listener.name, join_address(socket_address.address, socket_address.port_value)

    async def follow(self, inventory: Inventory) -> None:
        """Applies `inventory`. The order ensures that no route leads to a missing cluster, and no listener to missing
        routes."""
        old, new = self._config, self._translated(inventory)
        if new == old:
            return
        self._config = new
        await self._accepted(self._files.write_clusters(old, new))
        routes = self._files.write_routes(new)
        if await self._accepted(routes | self._files.write_listeners(new)):
            self._log_listeners()
        self._files.write_clusters(new)

    async def _accepted(self, versions: Versions) -> bool:
        """Waits for `versions`, and returns whether Envoy has applied them. A rejected part does not stop the rest: a
        listener whose port is in use does not block the others."""
        try:
            await self._admin.wait_for(versions, APPLY_TIMEOUT_S)
        except ConfigRejected as error:
            log.error("envoy.config_rejected", detail=str(error), hint="see Envoy's log lines above")
            return False
        return True

    def _log_listeners(self) -> None:
        """Logs changes of the listeners, and conflicts of the configuration."""
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
        options = TranslateOptions(
            listen_ip=settings.listen_ip,
            picker_host=picker_host,
            picker_port=picker_port,
            eds_target=settings.xds_address,
            route_source=self._route_source,
            max_body_bytes=settings.max_body_bytes,
        )
        return translate(inventory.resources, options)

    def _route_source(self, name: str) -> config_source_pb2.ConfigSource:
        return file_source(self._folder / routes_file(name))
