"""An edit of the folder takes effect; a wrong one does not, and disturbs nothing else."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from manifests import MODEL, POOL
from picker.resources.inference import RoutingStrategy
from picker.resources.problems import InvalidManifests
from picker.sources.folder import FolderSource
from picker.sources.inventory import Inventory
from structlog.testing import capture_logs

ENDPOINTS = """\
endpoints:
- {name: qwen-0, address: 127.0.0.1, port: 8000, labels: {app: qwen}}
- {name: qwen-1, address: 127.0.0.1, port: 8001, labels: {app: qwen}}
"""


class Watched:
    """A folder with a pool and a model, and what its source yields."""

    def __init__(self, path: Path) -> None:
        self.folder = path / "manifests"
        self.folder.mkdir()
        self.pool, self.model = self.folder / "pool.yaml", self.folder / "model.yml"
        self.endpoints = path / "endpoints.yaml"
        self.pool.write_text(POOL)
        self.model.write_text(MODEL)
        self.endpoints.write_text(ENDPOINTS)
        self.source = FolderSource(self.folder, self.endpoints).inventories()

    async def next(self) -> Inventory:
        async with asyncio.timeout(5):
            return await anext(self.source)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    """Closed at the end, with its watcher."""
    folder = Watched(tmp_path)
    yield folder
    await folder.source.aclose()  # type: ignore[attr-defined]


def strategy(inventory: Inventory) -> RoutingStrategy:
    [pool] = inventory.resources.pools.values()
    return pool.strategy


async def edited(watched: Watched, path: Path, text: str) -> Inventory:
    """What the source yields after `path` has been written, once it is watching."""
    pending = asyncio.ensure_future(watched.next())
    async with asyncio.timeout(5):
        while not pending.done():
            # Written again until seen: the watcher's start is not announced.
            path.write_text(text)
            await asyncio.wait([pending], timeout=0.2)
    return pending.result()


async def test_the_inventory_as_it_is_comes_first(watched: Watched) -> None:
    """Objects and servers."""
    inventory = await watched.next()
    assert len(inventory.resources.pools) == len(inventory.resources.models) == 1
    assert [server.name for server in inventory.servers] == ["qwen-0", "qwen-1"]


async def test_an_annotation_edit_is_seen_and_told(watched: Watched) -> None:
    """The log says from what to what."""
    await watched.next()
    annotated = "metadata:\n  annotations: {inference.networking.x-k8s.io/routing-strategy: PREFIX_CACHE}\n"
    with capture_logs() as logs:
        inventory = await edited(watched, watched.pool, POOL.replace("metadata:\n", annotated))
    assert strategy(inventory) is RoutingStrategy.PREFIX_CACHE
    assert any("routing-strategy DEFAULT -> PREFIX_CACHE" in line.get("change", "") for line in logs)


async def test_an_endpoint_that_leaves_the_file_is_gone(watched: Watched) -> None:
    """And told."""
    await watched.next()
    with capture_logs() as logs:
        inventory = await edited(watched, watched.endpoints, ENDPOINTS.rsplit("- ", 1)[0])
    assert [server.name for server in inventory.servers] == ["qwen-0"]
    assert {"model server qwen-1 left"} <= {line.get("change") for line in logs}


async def test_a_file_that_is_replaced_by_renaming_is_seen(watched: Watched) -> None:
    """As editors and ConfigMap mounts do."""
    await watched.next()
    pending = asyncio.ensure_future(watched.next())
    async with asyncio.timeout(5):
        while not pending.done():
            new = watched.folder / ".new"
            new.write_text(MODEL.replace("Critical", "Sheddable"))
            new.rename(watched.model)
            await asyncio.wait([pending], timeout=0.2)
    [model] = pending.result().resources.models
    assert model.criticality == "Sheddable"


async def test_a_wrong_edit_is_told_and_the_last_good_state_stays(watched: Watched) -> None:
    """While right edits of other files go on taking effect."""
    await watched.next()
    with capture_logs() as logs:
        watched.pool.write_text(POOL.replace("8000", "0"))
        inventory = await edited(watched, watched.model, MODEL.replace("Critical", "Standard"))
    assert [pool.target_ports for pool in inventory.resources.pools.values()] == [(8000,)]
    assert inventory.resources.models[0].criticality == "Standard"
    assert any("spec.targetPortNumber: found 0" in line.get("problem", "") for line in logs)


async def test_a_folder_that_is_wrong_from_the_start_is_refused(tmp_path: Path) -> None:
    """With everything that is wrong with it."""
    watched = Watched(tmp_path)
    watched.pool.write_text(POOL.replace("8000", "0"))
    watched.endpoints.write_text("endpoints:\n- {name: a, address: localhost}\n")
    with pytest.raises(InvalidManifests) as raised:
        await watched.next()
    assert len(raised.value.problems) == 2
    assert "found 'localhost'; allowed is an IP address" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "found 0 documents"),
        ("endpoints: {}", "endpoints: "),
        ("endpoints: [{name: a, address: 1.2.3.4, prt: 1}]", "did you mean port?"),
        ("endpoints: [{name: a, address: 1.2.3.4}, {name: a, address: 1.2.3.5}]", "found 'a' a second time"),
        ("endpoints: [{name: a, address: 1.2.3.4}, {name: b, address: 1.2.3.4}]", "1.2.3.4 a second time"),
        ("endpoints: [{name: a, address: 1.2.3.4, port: 0}]", "endpoints[0].port: found 0; allowed: at least 1"),
    ],
)
async def test_what_is_wrong_with_the_endpoints_file_is_named(watched: Watched, text: str, said: str) -> None:
    """Field, found, allowed."""
    watched.endpoints.write_text(text)
    with pytest.raises(InvalidManifests) as raised:
        await watched.next()
    assert said in str(raised.value)
