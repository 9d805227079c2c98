"""Marks HTTPRoutes after a renewal of certificates, so that Envoy Gateway translates again and Envoy has the new ones.

Envoy Gateway asks its extension when an object changes that it watches. A certificate is none of those. It passes on
annotations of its own prefix alone, and takes no notice of those of a pool."""

import asyncio
from collections.abc import Collection
from http import HTTPStatus
from typing import cast

import httpx2
import structlog
from lightkube import AsyncClient
from lightkube.types import PatchType

from picker.bounded_text import shorten
from picker.controller.api_objects import HTTP_ROUTE, read_pool_route
from picker.controller.certificate_secrets import FOLLOW_S
from picker.resources.names import ObjectName, PoolName
from picker.sources.api_metrics import API_METRICS
from picker.sources.informer import UNREADABLE, Json, status_code
from picker.sources.kubernetes_client import reason_of

MARK = "gateway.envoyproxy.io/picker-certificates"
"""Annotation of a route: how often the certificates of the pickers that it leads to have been renewed."""

SPREAD_S = 3 * FOLLOW_S
"""After a renewal, for every replica of the extension to have read it: any of them may be the one that is asked."""

LOOK_S = 5.0

log = structlog.get_logger(__name__)


class RouteAnnotations:
    """Runs in every replica. All write the same mark, and writing it again changes nothing."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._renewals = 0
        self._since_s = 0.0
        self._marked = 0
        self.pools: Collection[PoolName] = ()
        """Those whose picker is asked with the certificates."""

    def renewed(self, renewals: int) -> None:
        """Say what this replica answers Envoy Gateway with from now on. 0: the first certificates."""
        if renewals != self._renewals:
            self._renewals = renewals
            self._since_s = asyncio.get_running_loop().time()

    async def keep(self) -> None:
        """Mark after each renewal, for as long as the process runs."""
        while True:
            is_due = asyncio.get_running_loop().time() >= self._since_s + SPREAD_S
            if self._marked != self._renewals and is_due:
                renewals = self._renewals
                try:
                    await self._mark(renewals)
                except (httpx2.HTTPError, OSError, *UNREADABLE) as error:
                    API_METRICS.failed("HTTPRoute", reason_of(error))
                    log.warning("certificates.routes_not_marked", reason=shorten(str(error).partition("\n")[0]))
                else:
                    self._marked = renewals
            await asyncio.sleep(LOOK_S)

    async def _mark(self, renewals: int) -> None:
        """Raises httpx2.HTTPError where the API server fails; a route that is gone meanwhile is none to mark."""
        listing = self._client.list(HTTP_ROUTE, namespace="*")  # pyright: ignore[reportUnknownMemberType]
        names: list[ObjectName] = []
        async for each in listing:
            route = read_pool_route(cast(Json, each))
            if route is not None and not set(route.pools()).isdisjoint(self.pools):
                names.append(ObjectName(route.metadata.namespace, route.metadata.name))
        problem: httpx2.HTTPError | None = None
        for name in names:
            try:
                await self._client.patch(  # pyright: ignore[reportUnknownMemberType]
                    HTTP_ROUTE,
                    name.name,
                    {"metadata": {"annotations": {MARK: str(renewals)}}},
                    namespace=name.namespace,
                    patch_type=PatchType.MERGE,
                )
            except httpx2.HTTPError as error:
                problem = error if status_code(error) != HTTPStatus.NOT_FOUND else problem
        if problem is not None:
            raise problem
