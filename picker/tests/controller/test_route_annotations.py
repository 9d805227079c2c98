"""What makes Envoy Gateway translate again after a renewal of certificates."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx2
import pytest
from lightkube import AsyncClient
from picker.controller.route_annotations import MARK, SPREAD_S, RouteAnnotations
from picker.resources.names import POOL_GROUP_V1, PoolName

POOL = PoolName(POOL_GROUP_V1, "default", "red")


def route(name: str, pool: str) -> dict[str, Any]:
    backend = {"group": POOL_GROUP_V1, "kind": "InferencePool", "name": pool}
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"rules": [{"backendRefs": [backend]}]}}


class Api:
    """Two routes, of which one leads to a pool that is asked with the certificates."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, str]] = []
        self.failures = 0

    async def list(self, _kind: object, namespace: str) -> AsyncIterator[dict[str, Any]]:
        assert namespace == "*"
        for each in (route("ours", "red"), route("theirs", "blue")):
            yield each

    async def patch(self, _kind: object, name: str, changes: Any, namespace: str, patch_type: object) -> None:
        if self.failures:
            self.failures -= 1
            raise httpx2.ConnectError("no API server")
        self.marks.append((name, changes["metadata"]["annotations"][MARK]))


async def marks_after(api: Api, *renewals: int) -> list[tuple[str, str]]:
    marks = RouteAnnotations(cast(AsyncClient, cast(Any, api)))
    marks.pools = {POOL}
    keeping = asyncio.create_task(marks.keep())
    for each in renewals:
        marks.renewed(each)
        await asyncio.sleep(3 * SPREAD_S)
    keeping.cancel()
    return api.marks


@pytest.mark.looptime
async def test_the_first_certificates_mark_nothing() -> None:
    """The first translation has them."""
    assert await marks_after(Api(), 0) == []


@pytest.mark.looptime
async def test_each_renewal_marks_the_routes_to_the_pools_once() -> None:
    assert await marks_after(Api(), 1, 2) == [("ours", "1"), ("ours", "2")]


@pytest.mark.looptime
async def test_a_mark_that_could_not_be_written_is_written_later() -> None:
    api = Api()
    api.failures = 2
    assert await marks_after(api, 1) == [("ours", "1")]


@pytest.mark.looptime
async def test_a_mark_waits_until_every_replica_has_read_the_certificates() -> None:
    """Envoy Gateway asks any of them."""
    api = Api()
    marks = RouteAnnotations(cast(AsyncClient, cast(Any, api)))
    marks.pools = {POOL}
    keeping = asyncio.create_task(marks.keep())
    marks.renewed(1)
    await asyncio.sleep(SPREAD_S * 0.9)
    assert api.marks == []
    keeping.cancel()
