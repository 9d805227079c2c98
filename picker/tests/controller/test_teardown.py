"""Before a release goes, its Gateway does."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import httpx2
import pytest
from lightkube import ApiError, AsyncClient
from lightkube.models.meta_v1 import Status
from lightkube.types import PatchType
from picker.controller.teardown import GATEWAY, IN_USE, OVERDUE_S, InUseByOthers, ResourcesRemaining, Teardown
from picker.resources.names import ObjectName

OURS = ObjectName("default", "gate")
CLASS = "gate-class"
PROXIES = "system"
OWNER = {
    "gateway.envoyproxy.io/owning-gateway-name": OURS.name,
    "gateway.envoyproxy.io/owning-gateway-namespace": OURS.namespace,
}
PROXY = {"Deployment", "Service", "ServiceAccount"}

pytestmark = pytest.mark.looptime


def gateway(name: ObjectName, of_class: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name.name, "namespace": name.namespace},
        "spec": {"gatewayClassName": of_class},
    }


class Api:
    """An API server with one Gateway, its class, and the proxy that Envoy Gateway made for it."""

    def __init__(self) -> None:
        self.gateways = {OURS: gateway(OURS, CLASS)}
        self.proxy = set(PROXY)
        self.finalizers: list[str] | None = ["somebody.example.com/else", IN_USE]
        """None: the class is gone."""
        self.away = False
        self.forbids = False

    async def list(
        self, kind: type, namespace: str, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        self._reachable()
        if kind is GATEWAY:
            assert (namespace, labels) == ("*", None)
            for each in self.gateways.values():
                yield each
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
            raise refusal(403, "forbidden")
        if kind.__name__ not in self.proxy:
            raise refusal(404, "not found")
        self.proxy.remove(kind.__name__)

    async def get(self, _kind: type, name: str) -> dict[str, Any]:
        assert name == CLASS
        if self.finalizers is None:
            raise refusal(404, "not found")
        return {"metadata": {"name": name, "finalizers": self.finalizers, "resourceVersion": "7"}}

    async def patch(self, _kind: type, name: str, patch: dict[str, Any], patch_type: PatchType) -> None:
        assert (name, patch["metadata"]["resourceVersion"], patch_type) == (CLASS, "7", PatchType.MERGE)
        self.finalizers = patch["metadata"]["finalizers"]

    def _reachable(self) -> None:
        if self.away:
            raise httpx2.ConnectError("away")


def refusal(code: int, message: str) -> ApiError:
    return ApiError(status=Status(code=code, message=message))


def removal(api: Api) -> Teardown:
    return Teardown(cast(AsyncClient, cast(Any, api)), OURS, CLASS, ["default", PROXIES])


async def test_it_waits_until_the_proxy_is_gone_and_the_class_is_free() -> None:
    """Which is when Envoy Gateway may go."""
    api = Api()
    removing = asyncio.create_task(removal(api).run(60))
    await asyncio.sleep(1)
    assert not api.gateways
    api.proxy.clear()
    await asyncio.sleep(1)
    assert not removing.done()
    assert api.finalizers is not None
    api.finalizers.remove(IN_USE)
    await asyncio.sleep(1)
    assert removing.done()
    await removing


@pytest.mark.parametrize("finalizers", [None, []])
async def test_where_nothing_is_left_it_has_nothing_to_wait_for(finalizers: list[str] | None) -> None:
    """The Gateway has been deleted by hand, or Envoy Gateway has never seen it."""
    api = Api()
    api.gateways.clear()
    api.proxy.clear()
    api.finalizers = finalizers
    await removal(api).run(0.1)


async def test_a_gateway_of_another_class_stays() -> None:
    """It has nothing to do with the release."""
    api = Api()
    other = ObjectName("team", "other")
    api.gateways[other] = gateway(other, "another-class")
    api.proxy.clear()
    api.finalizers = []
    await removal(api).run(0.1)
    assert list(api.gateways) == [other]


async def test_other_gateways_of_the_class_are_told_before_anything_is_removed() -> None:
    """They are other people's, and nobody would take their proxies away."""
    api = Api()
    for name in ("one", "another"):
        other = ObjectName("team", name)
        api.gateways[other] = gateway(other, CLASS)
    with pytest.raises(InUseByOthers, match=r"GatewayClass gate-class .*: team/another, team/one"):
        await removal(api).run(60)
    assert OURS in api.gateways


async def test_what_envoy_gateway_does_not_take_away_is_taken_away_for_it() -> None:
    """It was away when the Gateway went, or is not there at all. A proxy has a ConfigMap, too, of its own name."""
    api = Api()
    api.proxy.add("ConfigMap")
    removing = asyncio.create_task(removal(api).run(60))
    await asyncio.sleep(OVERDUE_S - 1)
    assert api.proxy >= PROXY
    await removing
    assert (api.proxy, api.finalizers) == (set(), ["somebody.example.com/else"])


async def test_what_is_still_there_is_told() -> None:
    """Nobody waits for ever."""
    api = Api()
    with pytest.raises(ResourcesRemaining) as told:
        await removal(api).run(OVERDUE_S - 1)
    assert str(told.value).splitlines()[1:5] == [
        "  Deployment system/envoy",
        "  Service system/envoy",
        "  ServiceAccount system/envoy",
        f"  GatewayClass gate-class, with the finalizer {IN_USE}",
    ]
    api.forbids = True
    with pytest.raises(ResourcesRemaining, match="what the API server does not let go: forbidden"):
        await removal(api).run(60)


async def test_an_api_server_that_is_away_is_asked_again() -> None:
    """It may be restarted at any time."""
    api = Api()
    api.away = True
    removing = asyncio.create_task(removal(api).run(60))
    await asyncio.sleep(5)
    assert not removing.done()
    api.away = False
    api.proxy.clear()
    api.finalizers = []
    await removing
    assert not api.gateways
