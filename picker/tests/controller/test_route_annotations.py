"""Route annotations that make Envoy Gateway translate again."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx2
import pytest
from lightkube import AsyncClient
from picker.controller.api_objects import read_route
from picker.controller.route_annotations import RENEWALS_ANNOTATION, SPREAD_S, RouteAnnotations
from picker.resources.names import POOL_GROUP_V1, PoolName

POOL = PoolName(POOL_GROUP_V1, "default", "red")


def route(name: str, pool: str) -> dict[str, Any]:
    backend = {"group": POOL_GROUP_V1, "kind": "InferencePool", "name": pool}
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"rules": [{"backendRefs": [backend]}]}}


class Api:
    """A fake API server with two routes; one leads to a pool whose picker uses the certificates."""

    def __init__(self) -> None:
        self.annotations: list[tuple[str, str]] = []
        self.failures = 0

    async def list(self, _kind: object, namespace: str) -> AsyncIterator[dict[str, Any]]:
        assert namespace == "*"
        for object_ in (route("own", "red"), route("foreign", "blue")):
            yield object_

    async def patch(self, _kind: object, name: str, changes: Any, namespace: str, patch_type: object) -> None:
        if self.failures:
            self.failures -= 1
            raise httpx2.ConnectError("no API server")
        self.annotations.append((name, changes["metadata"]["annotations"][RENEWALS_ANNOTATION]))


def annotations_of(api: Api) -> RouteAnnotations:
    client = cast(AsyncClient, cast(Any, api))
    return RouteAnnotations(client, RENEWALS_ANNOTATION, lambda route: POOL in set(route.pools()), SPREAD_S, first="0")


async def annotations_after(api: Api, *renewals: int) -> list[tuple[str, str]]:
    annotations = annotations_of(api)
    task = asyncio.create_task(annotations.keep())
    for renewal in renewals:
        annotations.require(str(renewal))
        await asyncio.sleep(3 * SPREAD_S)
    task.cancel()
    return api.annotations


@pytest.mark.looptime
async def test_first_certificates_are_not_annotated() -> None:
    """The first translation includes them."""
    assert await annotations_after(Api(), 0) == []


@pytest.mark.looptime
async def test_renewal_annotates_routes_to_the_pools_once() -> None:
    assert await annotations_after(Api(), 1, 2) == [("own", "1"), ("own", "2")]


@pytest.mark.looptime
async def test_failed_annotation_is_retried() -> None:
    api = Api()
    api.failures = 2
    assert await annotations_after(api, 1) == [("own", "1")]


@pytest.mark.looptime
async def test_annotation_waits_for_all_replicas() -> None:
    """Envoy Gateway may call any replica."""
    api = Api()
    annotations = annotations_of(api)
    task = asyncio.create_task(annotations.keep())
    annotations.require("1")
    await asyncio.sleep(SPREAD_S * 0.9)
    assert api.annotations == []
    task.cancel()


def test_routes_by_model_are_recognised() -> None:
    """Names of headers are case-insensitive."""

    def matching(header: str) -> bool:
        matches = [{"headers": [{"name": header, "value": "qwen"}]}]
        spec = {"rules": [{}, {"matches": matches}]}
        return read_route({"metadata": {"name": "r", "namespace": "default"}, "spec": spec}).matches_by_model

    assert matching("X-Gateway-Model-Name")
    assert matching("x-gateway-base-model-name")
    assert not matching("x-model")
