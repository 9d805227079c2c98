"""Annotates HTTPRoutes after a renewal of certificates, so that Envoy Gateway translates again and Envoy gets the new
ones.

Envoy Gateway calls its extension when a watched object changes, and a certificate is not watched. Of annotations it
passes on only those with its own prefix, and it ignores those of a pool."""

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

RENEWALS_ANNOTATION = "gateway.envoyproxy.io/picker-certificates"
"""Annotation of a route: the number of renewals of its pickers' certificates."""

SPREAD_S = 3 * FOLLOW_S
"""Delay after a renewal, until every replica of the extension has read it: Envoy Gateway may call any of them."""

CHECK_S = 5.0

log = structlog.get_logger(__name__)


class RouteAnnotations:
    """Writes the annotation. Runs in every replica; all write the same value, so that writing it again changes
    nothing."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._renewals = 0
        self._since_s = 0.0
        self._annotated = 0
        self.pools: Collection[PoolName] = ()
        """The pools whose pickers use the certificates."""

    def renewed(self, renewals: int) -> None:
        """Sets the renewals of the certificates that this replica serves. 0: the first certificates."""
        if renewals != self._renewals:
            self._renewals = renewals
            self._since_s = asyncio.get_running_loop().time()

    async def keep(self) -> None:
        """Annotates after each renewal. Runs until cancelled."""
        while True:
            is_due = asyncio.get_running_loop().time() >= self._since_s + SPREAD_S
            if self._annotated != self._renewals and is_due:
                renewals = self._renewals
                try:
                    await self._annotate(renewals)
                except (httpx2.HTTPError, OSError, *UNREADABLE) as error:
                    API_METRICS.failed("HTTPRoute", reason_of(error))
                    log.warning("certificates.route_annotation_failed", reason=shorten(str(error).partition("\n")[0]))
                else:
                    self._annotated = renewals
            await asyncio.sleep(CHECK_S)

    async def _annotate(self, renewals: int) -> None:
        """Annotates all routes to `pools`. Raises httpx2.HTTPError if the API server fails; a deleted route is
        skipped."""
        listing = self._client.list(HTTP_ROUTE, namespace="*")  # pyright: ignore[reportUnknownMemberType]
        names: list[ObjectName] = []
        async for object_ in listing:
            route = read_pool_route(cast(Json, object_))
            if route is not None and not set(route.pools()).isdisjoint(self.pools):
                names.append(ObjectName(route.metadata.namespace, route.metadata.name))
        problem: httpx2.HTTPError | None = None
        for name in names:
            try:
                await self._client.patch(  # pyright: ignore[reportUnknownMemberType]
                    HTTP_ROUTE,
                    name.name,
                    {"metadata": {"annotations": {RENEWALS_ANNOTATION: str(renewals)}}},
                    namespace=name.namespace,
                    patch_type=PatchType.MERGE,
                )
            except httpx2.HTTPError as error:
                problem = error if status_code(error) != HTTPStatus.NOT_FOUND else problem
        if problem is not None:
            raise problem
