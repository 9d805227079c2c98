"""Deletion of the Gateway before its release is uninstalled."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import httpx2
import pytest
from lightkube import ApiError, AsyncClient
from lightkube.models.meta_v1 import Status
from lightkube.types import PatchType
from picker.controller.teardown import CLASS_FINALIZER, GATEWAY, OVERDUE_S, InUseByOthers, ResourcesRemaining, Teardown
from picker.resources.names import ObjectName

OWN_GATEWAY = ObjectName("default", "gate")
CLASS = "gate-class"
PROXIES = "system"
OWNER = {
    "gateway.envoyproxy.io/owning-gateway-name": OWN_GATEWAY.name,
    "gateway.envoyproxy.io/owning-gateway-namespace": OWN_GATEWAY.namespace,
}
PROXY = {"Deployment", "Service", "ServiceAccount"}

pytestmark = pytest.mark.looptime


def gateway(name: ObjectName, of_class: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name.name, "namespace": name.namespace},
        "spec": {"gatewayClassName": of_class},
    }


class Api:
    """A fake API server with one Gateway, its class, and the proxy that Envoy Gateway created."""

    def __init__(self) -> None:
        self.gateways = {OWN_GATEWAY: gateway(OWN_GATEWAY, CLASS)}
        self.proxy = set(PROXY)
        self.finalizers: list[str] | None = ["example.com/other", CLASS_FINALIZER]
        """None: the class does not exist."""
        self.unavailable = False
        self.forbids = False

    async def list(
        self, kind: type, namespace: str, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        self._reachable()
        if kind is GATEWAY:
            assert (namespace, labels) == ("*", None)
            for gateway_object in self.gateways.values():
                yield gateway_object
        else:
            assert labels == OWNER
            if namespace == PROXIES and kind.__name__ in self.proxy:
                yield {"metadata": {"name": "envoy", "namespace": namespace}}

    async def delete(self, kind: type, name: str, namespace: str) -> None:
        if kind is GATEWAY:
            del self.gateways[ObjectName(namespace, name)]
            return
        assert (namespace, name) == (PROXIES, "envoy")
        if self.forbids:
            raise api_error(403, "forbidden")
        if kind.__name__ not in self.proxy:
            raise api_error(404, "not found")
        self.proxy.remove(kind.__name__)

    async def get(self, _kind: type, name: str) -> dict[str, Any]:
        assert name == CLASS
        if self.finalizers is None:
            raise api_error(404, "not found")
        return {"metadata": {"name": name, "finalizers": self.finalizers, "resourceVersion": "7"}}

    async def patch(self, _kind: type, name: str, patch: dict[str, Any], patch_type: PatchType) -> None:
        assert (name, patch["metadata"]["resourceVersion"], patch_type) == (CLASS, "7", PatchType.MERGE)
        self.finalizers = patch["metadata"]["finalizers"]

    def _reachable(self) -> None:
        if self.unavailable:
            raise httpx2.ConnectError("away")


def api_error(code: int, message: str) -> ApiError:
    return ApiError(status=Status(code=code, message=message))


def teardown(api: Api) -> Teardown:
    return Teardown(cast(AsyncClient, cast(Any, api)), OWN_GATEWAY, CLASS, ["default", PROXIES])


async def test_teardown_waits_for_proxy_and_finalizer() -> None:
    """Envoy Gateway may be uninstalled after that."""
    api = Api()
    task = asyncio.create_task(teardown(api).run(60))
    await asyncio.sleep(1)
    assert not api.gateways
    api.proxy.clear()
    await asyncio.sleep(1)
    assert not task.done()
    assert api.finalizers is not None
    api.finalizers.remove(CLASS_FINALIZER)
    await asyncio.sleep(1)
    assert task.done()
    await task


@pytest.mark.parametrize("finalizers", [None, []])
async def test_teardown_ends_at_once_if_nothing_remains(finalizers: list[str] | None) -> None:
    """The Gateway was deleted by hand, or Envoy Gateway never processed it."""
    api = Api()
    api.gateways.clear()
    api.proxy.clear()
    api.finalizers = finalizers
    await teardown(api).run(0.1)


async def test_gateway_of_another_class_remains() -> None:
    """It does not belong to the release."""
    api = Api()
    other = ObjectName("team", "other")
    api.gateways[other] = gateway(other, "another-class")
    api.proxy.clear()
    api.finalizers = []
    await teardown(api).run(0.1)
    assert list(api.gateways) == [other]


async def test_other_gateways_of_the_class_prevent_the_teardown() -> None:
    """They belong to others, and their proxies would never be deleted."""
    api = Api()
    for name in ("one", "another"):
        other = ObjectName("team", name)
        api.gateways[other] = gateway(other, CLASS)
    with pytest.raises(InUseByOthers, match=r"GatewayClass gate-class .*: team/another, team/one"):
        await teardown(api).run(60)
    assert OWN_GATEWAY in api.gateways


async def test_overdue_proxy_is_deleted_by_the_teardown() -> None:
    """Envoy Gateway was not running when the Gateway was deleted. The proxy's ConfigMap of the same name is deleted
    too."""
    api = Api()
    api.proxy.add("ConfigMap")
    task = asyncio.create_task(teardown(api).run(60))
    await asyncio.sleep(OVERDUE_S - 1)
    assert api.proxy >= PROXY
    await task
    assert (api.proxy, api.finalizers) == (set(), ["example.com/other"])


async def test_remaining_resources_are_listed_after_the_timeout() -> None:
    """The timeout bounds the wait."""
    api = Api()
    with pytest.raises(ResourcesRemaining) as raised:
        await teardown(api).run(OVERDUE_S - 1)
    assert str(raised.value).splitlines()[1:5] == [
        "  Deployment system/envoy",
        "  Service system/envoy",
        "  ServiceAccount system/envoy",
        f"  GatewayClass gate-class, with the finalizer {CLASS_FINALIZER}",
    ]
    api.forbids = True
    with pytest.raises(ResourcesRemaining, match="resources that the API server does not list or delete: forbidden"):
        await teardown(api).run(60)


async def test_unavailable_api_server_is_retried() -> None:
    """It may restart at any time."""
    api = Api()
    api.unavailable = True
    task = asyncio.create_task(teardown(api).run(60))
    await asyncio.sleep(5)
    assert not task.done()
    api.unavailable = False
    api.proxy.clear()
    api.finalizers = []
    await task
    assert not api.gateways
