"""The folder of files from which a local Envoy reads its configuration. A file is replaced by a rename when its content
changes."""

import contextlib
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from picker.xds.bootstrap import CLUSTERS_FILE, LISTENERS_FILE, routes_file
from picker.xds.protobuf import pack_any
from picker.xds.translate import EnvoyConfig

Versions = dict[str, str]
"""Versions by the statistic `KIND.version_text` in which Envoy reports the version that it runs."""


class FileConfig:
    """Writes only files that have changed, because Envoy reads a file again whenever it is replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._routes: set[str] = set()

    def write_clusters(self, *configs: EnvoyConfig) -> Versions:
        """Writes the clusters of all `configs`; of two with one name, the later. During an update both old and new
        clusters exist, so that no route ever leads to a missing cluster."""
        clusters = {cluster.name: cluster for config in configs for cluster in config.clusters}
        return {"cluster_manager.cds": self._replace(CLUSTERS_FILE, [clusters[name] for name in sorted(clusters)])}

    def write_routes(self, config: EnvoyConfig) -> Versions:
        """Writes the route configurations. Envoy reads those that a listener names."""
        versions: Versions = {}
        for configuration in config.route_configurations:
            name = configuration.name
            versions[f"http.{name}.rds.{name}"] = self._replace(routes_file(name), [configuration])
            self._routes.add(name)
        return versions

    def write_listeners(self, config: EnvoyConfig) -> Versions:
        """Writes the listeners; must follow `write_routes`. Deletes route configurations without a listener."""
        version = self._replace(LISTENERS_FILE, config.listeners)
        current = {configuration.name for configuration in config.route_configurations}
        for deleted in self._routes - current:
            (self.folder / routes_file(deleted)).unlink(missing_ok=True)
        self._routes = current
        return {"listener_manager.lds": version}

    def _replace(self, name: str, resources: Sequence[Message]) -> str:
        response = discovery_pb2.DiscoveryResponse(resources=[pack_any(resource) for resource in resources])
        # A hash of the content, so that equal configurations have one version.
        version = sha256(response.SerializeToString(deterministic=True)).hexdigest()[:12]
        response.version_info = version
        text = MessageToJson(response, preserving_proto_field_name=True)
        path = self.folder / name
        with contextlib.suppress(FileNotFoundError):
            if path.read_text() == text:
                return version
        new = self.folder / f".{name}.new"
        new.write_text(text)
        new.replace(path)
        return version
