"""Removes a Gateway and waits until Envoy Gateway has taken its proxy away: what comes first when a release goes that
brings both."""

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
from picker.sources.informer import Json, Resource, object_name, resource, status_code

GATEWAY = resource(GROUP, "v1", "Gateway")
GATEWAY_CLASS = create_global_resource(GROUP, "v1", "GatewayClass", "gatewayclasses")
IN_USE = f"gateway-exists-finalizer.{GROUP}"
"""The finalizer that Envoy Gateway keeps on a class while a Gateway is of it, as the Gateway API says."""

OF_A_PROXY = (
    resource("apps", "v1", "Deployment"),
    resource("apps", "v1", "DaemonSet"),
    SERVICE,
    resource("", "v1", "ServiceAccount"),
    resource("autoscaling", "v2", "HorizontalPodAutoscaler"),
    resource("policy", "v1", "PodDisruptionBudget"),
)
"""What Envoy Gateway makes for a Gateway, all of one name."""

CONFIG_MAP = resource("", "v1", "ConfigMap")
"""It makes one of these, too. Not looked for: to list them is to read everyone's."""

POLL_S = 0.5
OVERDUE_S = 20.0
"""Envoy Gateway takes a proxy away within seconds. One that was away when the Gateway went never does."""

log = structlog.get_logger(__name__)


class ResourcesRemaining(CliError):
    """What Envoy Gateway made has not gone in time."""


class InUseByOthers(CliError):
    """Other Gateways are of the class; nothing has been removed."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Part of a proxy."""

    kind: Resource
    name: ObjectName

    def __str__(self) -> str:
        return f"{self.kind.__name__} {self.name}"


@dataclass(frozen=True, slots=True)
class Teardown:
    """The Gateway to remove, and all that goes with it."""

    client: AsyncClient
    gateway: ObjectName
    gateway_class: str
    proxy_namespaces: Sequence[str]
    """Where Envoy Gateway may have put the Gateway's proxy."""

    async def run(self, timeout_s: float) -> None:
        """Delete the Gateway, and return when its proxy is gone and the class is free to go. That is Envoy Gateway's
        work, and done here where it does not do it.

        Raises InUseByOthers, and StillThere after `timeout_s`; an API server that is away is asked again until then."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        left: Sequence[str] = ()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    before, left = left, await self._left(loop.time() - began_s > OVERDUE_S)
                    if not left:
                        return
                    if left != before:
                        log.info("teardown.waiting", left=list(left))
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise ResourcesRemaining(
                f"after {timeout_s:g} s there is still:\n"
                + "".join(f"  {each}\n" for each in left)
                + "`helm uninstall --no-hooks` does not wait for that, and leaves it to you."
            ) from None

    async def _left(self, is_overdue: bool) -> Sequence[str]:
        """What is left of Gateway, proxy and class, after a try to delete what is ours to delete by now."""
        try:
            await self._delete_gateway()
            proxy = [
                Leftover(kind, object_name(each))
                for namespace in self.proxy_namespaces
                for kind in OF_A_PROXY
                async for each in self._listed(kind, namespace, self._owner)
            ]
            if is_overdue:
                await self._take_away(proxy)
            return [*map(str, proxy), *await self._of_the_class(is_overdue)]
        except httpx2.HTTPError as error:
            reason = str(error).partition("\n")[0]
            return [f"what the API server does not let go: {reason}"]

    async def _delete_gateway(self) -> None:
        """Raises InUseByOthers."""
        gateways = [each async for each in self._listed(GATEWAY, "*")]
        of_class = [object_name(each) for each in gateways if each["spec"]["gatewayClassName"] == self.gateway_class]
        others = sorted(set(of_class) - {self.gateway})
        if others:
            raise InUseByOthers(
                f"GatewayClass {self.gateway_class} is that of other Gateways, too, which would lose their controller: "
                f"{', '.join(map(str, others))}. Nothing has been removed.\n"
                "Delete them first, or give them another class; `helm uninstall --no-hooks` leaves them behind."
            )
        if self.gateway in map(object_name, gateways):
            await self._delete(GATEWAY, self.gateway)

    async def _take_away(self, proxy: Sequence[Leftover]) -> None:
        for name in {each.name for each in proxy}:
            await self._delete(CONFIG_MAP, name)
        for each in proxy:
            await self._delete(each.kind, each.name)

    async def _delete(self, kind: Resource, name: ObjectName) -> None:
        try:
            await self.client.delete(kind, name.name, namespace=name.namespace)
        except httpx2.HTTPError as error:
            if status_code(error) != HTTPStatus.NOT_FOUND:
                raise
        else:
            log.info("teardown.deleted", object=f"{kind.__name__} {name}")

    async def _of_the_class(self, is_overdue: bool) -> Sequence[str]:
        try:
            metadata = cast(Json, await self.client.get(GATEWAY_CLASS, self.gateway_class))["metadata"]
        except httpx2.HTTPError as error:
            if status_code(error) == HTTPStatus.NOT_FOUND:
                return []
            raise
        finalizers = cast(list[str], metadata.get("finalizers") or [])
        if IN_USE not in finalizers:
            return []
        if is_overdue:
            # With the version that was read: what has been written meanwhile is looked at first.
            freed = {"finalizers": [each for each in finalizers if each != IN_USE]}
            await self.client.patch(  # pyright: ignore[reportUnknownMemberType]
                GATEWAY_CLASS,
                self.gateway_class,
                {"metadata": {**freed, "resourceVersion": metadata["resourceVersion"]}},
                patch_type=PatchType.MERGE,
            )
            log.info("teardown.finalizers_removed", object=f"GatewayClass {self.gateway_class}")
        return [f"GatewayClass {self.gateway_class}, with the finalizer {IN_USE}"]

    @property
    def _owner(self) -> Mapping[str, str]:
        """Labels of what Envoy Gateway makes for the Gateway."""
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
        async for each in listing:
            yield cast(Json, each)
