"""ConfigMaps of adapters, read from an API server."""

import asyncio
from typing import Any

from api_server import api_servers
from picker.sources.cluster import ClusterSource
from picker.sources.informer import kubernetes_client
from structlog.testing import capture_logs

CONFIG_MAPS = "/api/v1/configmaps"


def config_map(name: str, **data: str) -> dict[str, Any]:
    """An item of a list: the kind is not repeated."""
    labels = {"inference.llm-d.ai/ipp-managed": "true"}
    metadata = {"name": name, "namespace": "team", "labels": labels, "uid": name, "resourceVersion": "1"}
    return {"metadata": metadata, "data": data}


async def test_config_maps_with_the_label_are_read() -> None:
    """An invalid one affects only itself."""
    async with api_servers(CONFIG_MAPS) as ([server], config):
        server.objects = [config_map("a", baseModel="base", adapters="- lora"), config_map("b", adapters="- other")]
        with capture_logs() as logs:
            source = ClusterSource(kubernetes_client(config), reads_adapters=True)
            inventory = await asyncio.wait_for(anext(source.inventories()), 10)
        assert [(item.base_model, item.adapters) for item in inventory.resources.adapters] == [("base", ("lora",))]
        assert any("ConfigMap team/b" in str(line.get("problem")) for line in logs)
        assert source.refused == 1
        server.events.put_nowait(None)


async def test_config_maps_are_not_read_unless_wanted() -> None:
    """A picker has no right to read them."""
    async with api_servers(CONFIG_MAPS) as ([server], config):
        await asyncio.wait_for(anext(ClusterSource(kubernetes_client(config)).inventories()), 10)
        assert server.requested == []
