"""Deletes a Gateway and waits until Envoy Gateway has deleted its proxy. A release that holds both runs this before its
uninstall."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import httpx2
import structlog
from lightkube import AsyncClient
from lightkube.generic_resource import (
    create_global_resource,  # pyright: ignore[reportUnknownVariableType]
)
from lightkube.types import PatchType

from picker.cli_error import CliError
from picker.controller.api_objects import SERVICE
from picker.resources.gateway_api import GROUP
from picker.resources.names import ObjectName
from picker.sources.cluster import CONFIG_MAP
from picker.sources.informer import Json, Resource, object_name, resource, status_code

GATEWAY = resource(GROUP, "v1", "Gateway")
GATEWAY_CLASS = create_global_resource(GROUP, "v1", "GatewayClass", "gatewayclasses")
CLASS_FINALIZER = f"gateway-exists-finalizer.{GROUP}"
"""Finalizer that Envoy Gateway sets on a class while it has Gateways, as the Gateway API requires."""

PROXY_KINDS = (
    resource("apps", "v1", "Deployment"),
    resource("apps", "v1", "DaemonSet"),
    SERVICE,
    resource("", "v1", "ServiceAccount"),
    resource("autoscaling", "v2", "HorizontalPodAutoscaler"),
    resource("policy", "v1", "PodDisruptionBudget"),
)
"""Kinds of the resources that Envoy Gateway creates for a Gateway, all of one name.

It creates a ConfigMap too. ConfigMaps are not listed, because that would require the right to read all of them."""

POLL_S = 0.5
OVERDUE_S = 20.0
"""Seconds after which the proxy is deleted here. Envoy Gateway deletes it within seconds. If Envoy Gateway is not
running when the Gateway is deleted, it never does."""

log = structlog.get_logger(__name__)


class ResourcesRemaining(CliError):
    """Resources of Envoy Gateway remain after the timeout."""


class InUseByOthers(CliError):
    """Other Gateways use the class; nothing has been deleted."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A resource of the proxy that still exists."""

    kind: Resource
    name: ObjectName

    def __str__(self) -> str:
        return f"{self.kind.__name__} {self.name}"


@dataclass(frozen=True, slots=True)
class Teardown:
    """The Gateway to delete, its class and its proxy."""

    client: AsyncClient
    gateway: ObjectName
    gateway_class: str
    proxy_namespaces: Sequence[str]
    """Namespaces in which Envoy Gateway may have created the proxy."""

    async def run(self, timeout_s: float) -> None:
        """Deletes the Gateway, and returns when its proxy is gone and the class has no finalizer. Envoy Gateway does
        both; after OVERDUE_S this process does.

        Raises InUseByOthers, and ResourcesRemaining after `timeout_s`. Errors of the API server are retried until
        then."""
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        left: Sequence[str] = ()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    previous, left = left, await self._remaining(loop.time() - started_s > OVERDUE_S)
                    if not left:
                        return
                    if left != previous:
                        log.info("teardown.waiting", left=list(left))
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise ResourcesRemaining(
                f"resources remain after {timeout_s:g} s:\n"
                + "".join(f"  {remaining}\n" for remaining in left)
                + "`helm uninstall --no-hooks` does not wait for them; delete them by hand then."
            ) from None

    async def _remaining(self, is_overdue: bool) -> Sequence[str]:
        """Deletes what may be deleted by now, and returns what remains of Gateway, proxy and class."""
        try:
            await self._delete_gateway()
            proxy = [
                Leftover(kind, object_name(object_))
                for namespace in self.proxy_namespaces
                for kind in PROXY_KINDS
                async for object_ in self._listed(kind, namespace, self._owner)
            ]
            if is_overdue:
                await self._delete_proxy(proxy)
            return [*map(str, proxy), *await self._remaining_of_class(is_overdue)]
        except httpx2.HTTPError as error:
            reason = str(error).partition("\n")[0]
            return [f"resources that the API server does not list or delete: {reason}"]

    async def _delete_gateway(self) -> None:
        """Deletes the Gateway if it exists. Raises InUseByOthers if other Gateways use the class."""
        gateways = [gateway async for gateway in self._listed(GATEWAY, "*")]
        of_class = [
            object_name(gateway) for gateway in gateways if gateway["spec"]["gatewayClassName"] == self.gateway_class
        ]
        others = sorted(set(of_class) - {self.gateway})
        if others:
            raise InUseByOthers(
                f"GatewayClass {self.gateway_class} is used by other Gateways, which would lose their controller: "
                f"{', '.join(map(str, others))}. Nothing has been removed.\n"
                "Delete them first, or change their class. `helm uninstall --no-hooks` skips this check."
            )
        if self.gateway in map(object_name, gateways):
            await self._delete(GATEWAY, self.gateway)

    async def _delete_proxy(self, proxy: Sequence[Leftover]) -> None:
        for name in {leftover.name for leftover in proxy}:
            await self._delete(CONFIG_MAP, name)
        for leftover in proxy:
            await self._delete(leftover.kind, leftover.name)

    async def _delete(self, kind: Resource, name: ObjectName) -> None:
        try:
            await self.client.delete(kind, name.name, namespace=name.namespace)
        except httpx2.HTTPError as error:
            if status_code(error) != HTTPStatus.NOT_FOUND:
                raise
        else:
            log.info("teardown.deleted", object=f"{kind.__name__} {name}")

    async def _remaining_of_class(self, is_overdue: bool) -> Sequence[str]:
        try:
            metadata = cast(Json, await self.client.get(GATEWAY_CLASS, self.gateway_class))["metadata"]
        except httpx2.HTTPError as error:
            if status_code(error) == HTTPStatus.NOT_FOUND:
                return []
            raise
        finalizers = cast(list[str], metadata.get("finalizers") or [])
        if CLASS_FINALIZER not in finalizers:
            return []
        if is_overdue:
            # The patch has the version that was read, so that concurrent changes are not lost.
            remaining = {"finalizers": [finalizer for finalizer in finalizers if finalizer != CLASS_FINALIZER]}
            await self.client.patch(  # pyright: ignore[reportUnknownMemberType]
                GATEWAY_CLASS,
                self.gateway_class,
                {"metadata": {**remaining, "resourceVersion": metadata["resourceVersion"]}},
                patch_type=PatchType.MERGE,
            )
            log.info("teardown.finalizers_removed", object=f"GatewayClass {self.gateway_class}")
        return [f"GatewayClass {self.gateway_class}, with the finalizer {CLASS_FINALIZER}"]

    @property
    def _owner(self) -> Mapping[str, str]:
        """Labels of the resources that Envoy Gateway creates for the Gateway."""
        return {
            "gateway.envoyproxy.io/owning-gateway-name": self.gateway.name,
            "gateway.envoyproxy.io/owning-gateway-namespace": self.gateway.namespace,
        }

    async def _listed(
        self, kind: Resource, namespace: str, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[Json]:
        selected: dict[str, Any] | None = dict(labels) if labels is not None else None
        listing = self.client.list(  # pyright: ignore[reportUnknownMemberType]
            kind, namespace=namespace, labels=selected
        )
        async for object_ in listing:
            yield cast(Json, object_)
