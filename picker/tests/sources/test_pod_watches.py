"""Pods are watched once per namespace, and only in namespaces of followed pools."""

import asyncio
from typing import Any

from api_server import api_servers
from picker.sources.cluster import ClusterSource
from picker.sources.informer import kubernetes_client

POOLS = "/apis/inference.networking.k8s.io/v1/inferencepools"
PODS = "/api/v1/namespaces/{}/pods"


def pool(name: str, namespace: str, app: str) -> dict[str, Any]:
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": namespace, "uid": name, "resourceVersion": "1"},
        "spec": {"selector": {"matchLabels": {"app": app}}, "targetPorts": [{"number": 8000}]},
    }


def pod(name: str, app: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "team", "labels": {"app": app, "tier": "x"}, "resourceVersion": "1"},
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}],
        },
    }  # fmt: skip


async def test_pools_of_a_namespace_share_one_watch() -> None:
    async with api_servers(POOLS, PODS.format("team"), PODS.format("mallory")) as ([pools, team, mallory], config):
        of_team = [pool(f"p{number}", "team", f"app-{number}") for number in range(50)]
        pools.objects = [*of_team, *(pool(f"m{number}", "mallory", "evil") for number in range(50))]
        team.objects = [pod("selected", "app-7"), pod("other", "nothing")]
        source = ClusterSource(kubernetes_client(config), serves=lambda pool: pool.name.namespace == "team")
        inventory = await asyncio.wait_for(anext(source.inventories()), 10)
        assert [server.name for server in inventory.servers] == ["selected"]
        assert {name.namespace for name in inventory.resources.pools} == {"team"}
        assert team.requested.count("list") == 1
        assert mallory.requested == []
        for server in (pools, team, mallory):
            server.events.put_nowait(None)
