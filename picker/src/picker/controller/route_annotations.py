"""Annotates HTTPRoutes when something changes that Envoy Gateway does not watch, so that it translates again: the
pickers' certificates, and the models that objects declare.

Envoy Gateway calls its extension when a watched object changes. Of annotations it passes on only those with its own
prefix, and it ignores those of a pool."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

import httpx2
import structlog
from lightkube import AsyncClient
from lightkube.types import PatchType

from picker.bounded_text import shorten
from picker.controller.api_objects import HTTP_ROUTE, HTTPRoute, read_route
from picker.controller.certificate_secrets import FOLLOW_S
from picker.resources.names import ObjectName
from picker.sources.api_metrics import API_METRICS
from picker.sources.informer import UNREADABLE, Json, status_code
from picker.sources.kubernetes_client import reason_of

RENEWALS_ANNOTATION = "gateway.envoyproxy.io/picker-certificates"
"""Annotation of a route: the number of renewals of its pickers' certificates."""

MODELS_ANNOTATION = "gateway.envoyproxy.io/declared-models"
"""Annotation of a route that matches by model: a digest of the declared models."""

SPREAD_S = 3 * FOLLOW_S
"""Delay after a renewal of certificates, until every replica of the extension has read it: Envoy Gateway may call any
of them."""

WATCH_SPREAD_S = 2.0
"""The same for objects that every replica watches. Judgement: an event arrives within milliseconds."""

CHECK_S = 5.0

log = structlog.get_logger(__name__)


class RouteAnnotations:
    """Writes one annotation. Runs in every replica; all write the same value, so that writing it again changes
    nothing."""

    def __init__(
        self,
        client: AsyncClient,
        annotation: str,
        selects: Callable[[HTTPRoute], bool],
        spread_s: float,
        first: str | None = None,
    ) -> None:
        """`selects`: whether a route has the annotation. `spread_s`: delay after a change. `first`: a value that is not
        written."""
        self._client = client
        self._annotation = annotation
        self._selects = selects
        self._spread_s = spread_s
        self._value = self._written = first
        self._since_s = 0.0

    def require(self, value: str) -> None:
        """Sets the value that describes what this replica serves."""
        if value != self._value:
            self._value = value
            self._since_s = asyncio.get_running_loop().time()

    async def keep(self) -> None:
        """Annotates after each change. Runs until cancelled."""
        while True:
            value = self._value
            is_due = asyncio.get_running_loop().time() >= self._since_s + self._spread_s
            if value is not None and value != self._written and is_due:
                try:
                    await self._annotate(value)
                except (httpx2.HTTPError, OSError, *UNREADABLE) as error:
                    API_METRICS.failed("HTTPRoute", reason_of(error))
                    reason = shorten(str(error).partition("\n")[0])
                    log.warning("routes.annotation_failed", annotation=self._annotation, reason=reason)
                else:
                    self._written = value
            await asyncio.sleep(CHECK_S)

    async def _annotate(self, value: str) -> None:
        """Annotates the selected routes. Raises httpx2.HTTPError if the API server fails; a deleted route is
        skipped."""
        listing = self._client.list(HTTP_ROUTE, namespace="*")  # pyright: ignore[reportUnknownMemberType]
        names: list[ObjectName] = []
        async for object_ in listing:
            route = read_route(cast(Json, object_))
            if self._selects(route):
                names.append(ObjectName(route.metadata.namespace, route.metadata.name))
        problem: httpx2.HTTPError | None = None
        for name in names:
            try:
                await self._client.patch(  # pyright: ignore[reportUnknownMemberType]
                    HTTP_ROUTE,
                    name.name,
                    {"metadata": {"annotations": {self._annotation: value}}},
                    namespace=name.namespace,
                    patch_type=PatchType.MERGE,
                )
            except httpx2.HTTPError as error:
                problem = error if status_code(error) != HTTPStatus.NOT_FOUND else problem
        if problem is not None:
            raise problem
