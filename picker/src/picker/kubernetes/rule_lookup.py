"""Reads the backends of an HTTPRoute's rule from the API server."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import cast

import httpx2
from lightkube import AsyncClient

from picker.gateway.extension import RuleBackend, RuleName
from picker.gateway.extension_server import LookupFailed
from picker.kubernetes.objects import HTTP_ROUTE, read_route
from picker.sources.kubernetes_watch import Json, status_code


class ApiRuleLookup:
    """See `extension_server.RuleLookup`. Asks each time: Envoy Gateway calls the moment that an HTTPRoute has changed,
    and a watch of our own might be a moment behind its."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def backends(self, rule: RuleName) -> Sequence[RuleBackend]:
        name = rule.route
        try:
            read = await self._client.get(  # pyright: ignore[reportUnknownMemberType]
                HTTP_ROUTE, name.name, namespace=name.namespace
            )
        except httpx2.HTTPError as error:
            if status_code(error) == HTTPStatus.NOT_FOUND:
                return ()
            raise LookupFailed(str(error) or type(error).__name__) from error
        route = read_route(cast(Json, read))
        if rule.rule >= len(route.spec.rules):
            return ()
        return [
            RuleBackend(backend.pool(name.namespace), backend.weight)
            for backend in route.spec.rules[rule.rule].backend_refs
        ]
