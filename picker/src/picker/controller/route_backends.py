"""Reads the backends of HTTPRoute rules from the API server."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import cast

import httpx2
from lightkube import AsyncClient

from picker.controller.api_objects import HTTP_ROUTE, HTTPRoute, read_route
from picker.resources.names import ObjectName
from picker.sources.informer import Json
from picker.xds.extension import RuleBackend, RuleName
from picker.xds.extension_server import LookupFailed

TRANSLATION_S = 1.0
"""Longest duration of one translation. Judgement."""


class ApiRuleLookup:
    """Implements `extension_server.RuleLookup`. Lists the HTTPRoutes again for each translation: Envoy Gateway calls as
    soon as one has changed, and a watch might lag behind."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._routes: Mapping[ObjectName, HTTPRoute] = {}
        self._listed_s = -TRANSLATION_S

    async def backends(self, rule: RuleName) -> Sequence[RuleBackend]:
        if asyncio.get_running_loop().time() - self._listed_s > TRANSLATION_S:
            await self._list()
        route = self._routes.get(rule.route)
        if route is None or rule.rule >= len(route.spec.rules):
            return ()
        return [
            RuleBackend(
                backend.pool(rule.route.namespace), backend.weight, backend.request_changes, backend.response_changes
            )
            for backend in route.spec.rules[rule.rule].backend_refs
        ]

    def invalidate(self) -> None:
        self._listed_s = -TRANSLATION_S

    async def _list(self) -> None:
        started_s = asyncio.get_running_loop().time()
        try:
            listing = self._client.list(HTTP_ROUTE, namespace="*")  # pyright: ignore[reportUnknownMemberType]
            routes = [read_route(cast(Json, object_)) async for object_ in listing]
        except httpx2.HTTPError as error:
            raise LookupFailed(str(error) or type(error).__name__) from error
        self._routes = {ObjectName(route.metadata.namespace, route.metadata.name): route for route in routes}
        self._listed_s = started_s
