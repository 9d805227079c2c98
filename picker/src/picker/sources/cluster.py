"""Reads a Kubernetes cluster: the inference objects, and the pods that the pools select."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, ItemsView, Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

import structlog
from lightkube import AsyncClient
from pydantic import ValidationError

from picker.bounded_text import shorten
from picker.resources.inference import InferencePool, PoolSettings
from picker.resources.model_adapters import MANAGED_LABEL, ConfigMap
from picker.resources.names import ObjectName
from picker.resources.objects import AnyObject, Resources
from picker.resources.parse import KINDS, typed
from picker.resources.pool_annotations import keep_settings, strategy_in_force
from picker.resources.problems import field_path, sentence
from picker.resources.wire import Object
from picker.sources.active_ports import ANNOTATIONS, active_ports
from picker.sources.diff import changes
from picker.sources.informer import LIST_S, Informer, Json, Resource, resource
from picker.sources.inventory import Inventory, ModelServer

INFERENCE_KINDS = ("InferencePool", "InferenceModel", "InferenceObjective", "InferenceModelRewrite")
POD: Resource = resource("", "v1", "Pod")
CONFIG_MAP: Resource = resource("", "v1", "ConfigMap")

SETTLE_S = 0.02
"""Changes come in groups (a rollout, a list). A group is read once. The delay is short enough not to be noticed."""

MAX_LOGGED = 10
"""Limit on the logged problems of one object. Judgement: users correct fewer at once."""

log = structlog.get_logger(__name__)


class ClusterSource:
    """See `inventory.Source`. An object that the API server accepts and that is invalid here keeps its last valid
    state."""

    def __init__(
        self,
        client: AsyncClient,
        namespace: str = "*",
        serves: Callable[[InferencePool], bool] = lambda _: True,
        *,
        reads_adapters: bool = False,
    ) -> None:
        """`namespace`: the only one to read; `*` is all. `serves`: whether a pool is followed. Pods of other pools are
        not read. `reads_adapters`: whether to read the ConfigMaps of adapters."""
        self._client = client
        self._namespace = namespace
        self._changed = asyncio.Event()
        self._failed: list[asyncio.Task[None]] = []
        self._readers = [
            (resource(*_group_and_version(api_version), kind), ObjectReader(wire))
            for kind in INFERENCE_KINDS
            for api_version, wire in KINDS.get(kind, {}).items()
        ]
        self._objects = [Informer(client, kind, reader.keep, namespace) for kind, reader in self._readers]
        if reads_adapters:
            self._readers.append((CONFIG_MAP, reader := ObjectReader(ConfigMap)))
            keep = partial(_keep_config_map, reader)
            self._objects.append(Informer(client, CONFIG_MAP, keep, namespace, {MANAGED_LABEL: "true"}))
        self._serves = serves
        self._pods: dict[str, tuple[Informer[ModelServer], asyncio.Task[None]]] = {}
        """By namespace: one watch for all pools of a namespace."""

    @property
    def refused(self) -> int:
        return sum(reader.refused for _, reader in self._readers)

    async def inventories(self) -> AsyncIterator[Inventory]:
        following = [self._start(informer) for informer in self._objects]
        current: Inventory | None = None
        try:
            for informer in self._objects:
                await informer.listed.wait()
            while True:
                self._changed.clear()
                for failed in self._failed:
                    failed.result()
                objects = [
                    item for informer in self._objects for item in informer.objects.values() if self._is_followed(item)
                ]
                pools = [item for item in objects if isinstance(item, InferencePool) and item.selector]
                self._follow_pods({pool.name.namespace for pool in pools})
                await self._pods_listed()
                new = Inventory(Resources.of(objects), self._servers(pools))
                if current is None or new != current:
                    for line in changes(current, new) if current is not None else ():
                        log.info("source.changed", change=line)
                    current = new
                    yield new
                await self._changed.wait()
                await asyncio.sleep(SETTLE_S)
        finally:
            for task in [*following, *(task for _, task in self._pods.values())]:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def _is_followed(self, object_: AnyObject) -> bool:
        return not isinstance(object_, InferencePool) or self._serves(object_)

    def _follow_pods(self, namespaces: Set[str]) -> None:
        """Follow the pods of these namespaces, and stop to follow those of others."""
        for removed in self._pods.keys() - namespaces:
            self._pods.pop(removed)[1].cancel()
        for namespace in namespaces - self._pods.keys():
            informer = Informer(self._client, POD, ready_server, namespace)
            self._pods[namespace] = informer, self._start(informer)

    def _start(self, informer: Informer[Any]) -> asyncio.Task[None]:
        """Start `informer`, which runs until cancelled. An unexpected failure ends the source: it must not continue
        with a part of the objects."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                self._failed.append(task)
                informer.listed.set()
                self._changed.set()

        task = asyncio.create_task(informer.follow(self._changed.set))
        task.add_done_callback(ended)
        return task

    async def _pods_listed(self) -> None:
        """Wait for the pods of a new selection, at most `LIST_S`.

        Without the wait a pool whose selector has changed would have no pods for a moment.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(LIST_S):
                for informer, _ in self._pods.values():
                    await informer.listed.wait()

    def _servers(self, pools: Iterable[InferencePool]) -> tuple[ModelServer, ...]:
        """The pods that any pool selects, by name."""
        # Indexed by one label of each selector, so the cost of many pools and many pods is their sum.
        selectors: defaultdict[tuple[str, tuple[str, str]], list[ItemsView[str, str]]] = defaultdict(list)
        for pool in pools:
            selectors[pool.name.namespace, min(pool.selector.items())].append(pool.selector.items())
        found: dict[ObjectName, ModelServer] = {}
        for namespace, (informer, _) in self._pods.items():
            for name, server in informer.objects.items():
                labels = server.labels.items()
                if any(selector <= labels for label in labels for selector in selectors.get((namespace, label), ())):
                    found[name] = server
        return tuple(found[name] for name in sorted(found))


class ObjectReader:
    """Decodes the objects of one kind and version."""

    def __init__(self, wire: type[Object]) -> None:
        self._wire = wire
        self.refused = 0
        """Number of times that an object was invalid."""

    def keep(self, object_: Json, before: AnyObject | None) -> AnyObject | None:
        """The decoded object, or `before` if it is invalid.

        An invalid annotation keeps the value that `before` has for it. Without `before`, the strategy is that of the
        object's status, and other settings are unset.
        """
        metadata = object_["metadata"]
        annotations: set[str] = set()
        try:
            return typed(self._wire.model_validate(object_, extra="ignore"))
        except ValidationError as error:
            errors = error.errors()
            problems = [f"{field_path(item['loc'])}: {sentence(item, self._wire)}" for item in errors]
            if all(item["loc"][:2] == ("metadata", "annotations") for item in errors):
                annotations = {str(item["loc"][2]) for item in errors}
        except ValueError as error:
            problems = [str(error)]
        self.refused += 1
        if annotations:
            before = self._without(object_, annotations, before)
        title = f"{object_['kind']} {metadata['namespace']}/{metadata['name']}"
        for problem in problems[:MAX_LOGGED]:
            log.error(
                "source.invalid",
                problem=f"{title}: {shorten(problem)}",
                kept="its last valid state" if before is not None else "nothing",
            )
        if len(problems) > MAX_LOGGED:
            log.error("source.invalid", problem=f"{title}: and {len(problems) - MAX_LOGGED} more problems")
        return before

    def _without(self, object_: Json, annotations: Set[str], before: AnyObject | None) -> AnyObject | None:
        """The decoded object, with the settings that `annotations` name from `before`."""
        metadata = object_["metadata"]
        others = {name: value for name, value in metadata["annotations"].items() if name not in annotations}
        read = self.keep({**object_, "metadata": {**metadata, "annotations": others}}, before)
        if not isinstance(read, InferencePool):
            return read
        if not isinstance(before, InferencePool):
            before = replace(read, strategy=strategy_in_force(object_), settings=PoolSettings())
        return keep_settings(read, before, annotations)


def _keep_config_map(reader: ObjectReader, object_: Json, before: AnyObject | None) -> AnyObject | None:
    """Reads an item of a list of ConfigMaps: those of kinds that are built in have no kind and no version."""
    return reader.keep({**object_, "apiVersion": "v1", "kind": "ConfigMap"}, before)


def ready_server(pod: Json, before: ModelServer | None = None) -> ModelServer | None:
    """The pod as a model server. None for a pod that must get no requests: not ready, or without an address.
    Logs an invalid annotation that `before` did not have.

    The kubelet probes the readiness of a terminating pod until its container stops."""
    metadata, status = pod["metadata"], cast(Json, pod.get("status") or {})
    address = status.get("podIP")
    if not address or status.get("phase") in ("Succeeded", "Failed"):
        return None
    conditions = cast(list[Mapping[str, str]], status.get("conditions") or [])
    if not any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions):
        return None
    labels = cast(Mapping[str, str], metadata.get("labels") or {})
    ports = active_ports(cast(Mapping[str, object], metadata.get("annotations") or {}))
    if ports.ignored is not None and (before is None or before.active_ports != ports):
        title = f"Pod {metadata['namespace']}/{metadata['name']}"
        problem = f"{title}: annotation {ANNOTATIONS[0]}: found {ports.ignored!r}; allowed are port numbers with commas"
        kept = "all target ports" if ports.ports is None else f"{sorted(ports.ports)}"
        log.error("source.invalid", problem=problem, kept=kept)
    terminating = "deletionTimestamp" in metadata
    return ModelServer(metadata["name"], metadata["namespace"], address, None, labels, terminating, ports)


def _group_and_version(api_version: str) -> tuple[str, str]:
    group, _, version = api_version.rpartition("/")
    return group, version


__all__ = ["INFERENCE_KINDS", "POD", "ClusterSource", "ObjectReader", "ready_server"]
