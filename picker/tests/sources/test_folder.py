"""A valid edit of the folder takes effect. An invalid one does not, and does not affect other files."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from manifests import MODEL, POOL
from picker.resources.inference import RoutingStrategy
from picker.resources.problems import InvalidManifests, Problem
from picker.resources.validate import Report
from picker.sources.folder import FolderSource
from picker.sources.inventory import Inventory
from structlog.testing import capture_logs

ENDPOINTS = """\
endpoints:
- {name: qwen-0, address: 127.0.0.1, port: 8000, labels: {app: qwen}}
- {name: qwen-1, address: 127.0.0.1, port: 8001, labels: {app: qwen}}
"""


class Watched:
    """A folder with a pool and a model, and the inventories of its source."""

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
        async with asyncio.timeout(20):
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
    """The inventory after `path` has been written, once the source is watching."""
    pending = asyncio.ensure_future(watched.next())
    async with asyncio.timeout(20):
        while not pending.done():
            # Written again until seen: the watcher's start is not announced.
            path.write_text(text)
            await asyncio.wait([pending], timeout=0.2)
    return pending.result()


async def test_the_current_inventory_is_first(watched: Watched) -> None:
    """Objects and servers."""
    inventory = await watched.next()
    assert len(inventory.resources.pools) == len(inventory.resources.models) == 1
    assert [server.name for server in inventory.servers] == ["qwen-0", "qwen-1"]


async def test_an_annotation_edit_takes_effect_and_is_logged(watched: Watched) -> None:
    """The log has the old and the new value."""
    await watched.next()
    annotated = "metadata:\n  annotations: {inference.networking.x-k8s.io/routing-strategy: PREFIX_CACHE}\n"
    with capture_logs() as logs:
        inventory = await edited(watched, watched.pool, POOL.replace("metadata:\n", annotated))
    assert strategy(inventory) is RoutingStrategy.PREFIX_CACHE
    assert any("routing-strategy DEFAULT -> PREFIX_CACHE" in line.get("change", "") for line in logs)


async def test_an_endpoint_that_is_removed_from_the_file_leaves(watched: Watched) -> None:
    """It is logged."""
    await watched.next()
    with capture_logs() as logs:
        inventory = await edited(watched, watched.endpoints, ENDPOINTS.rsplit("- ", 1)[0])
    assert [server.name for server in inventory.servers] == ["qwen-0"]
    assert {"model server default/qwen-1 left"} <= {line.get("change") for line in logs}


async def test_a_file_that_is_replaced_by_renaming_is_read(watched: Watched) -> None:
    """As editors and ConfigMap mounts do."""
    await watched.next()
    pending = asyncio.ensure_future(watched.next())
    async with asyncio.timeout(20):
        while not pending.done():
            new = watched.folder / ".new"
            new.write_text(MODEL.replace("Critical", "Sheddable"))
            new.rename(watched.model)
            await asyncio.wait([pending], timeout=0.2)
    [model] = pending.result().resources.models
    assert model.criticality == "Sheddable"


async def test_an_invalid_edit_is_logged_and_the_last_valid_state_stays(watched: Watched) -> None:
    """Valid edits of other files take effect."""
    await watched.next()
    with capture_logs() as logs:
        watched.pool.write_text(POOL.replace("8000", "0"))
        inventory = await edited(watched, watched.model, MODEL.replace("Critical", "Standard"))
    assert [pool.target_ports for pool in inventory.resources.pools.values()] == [(8000,)]
    assert inventory.resources.models[0].criticality == "Standard"
    assert any("spec.targetPortNumber: found 0" in line.get("problem", "") for line in logs)


async def test_a_folder_that_is_invalid_at_the_start_is_rejected(tmp_path: Path) -> None:
    """With all its problems."""
    watched = Watched(tmp_path)
    watched.pool.write_text(POOL.replace("8000", "0"))
    watched.endpoints.write_text("endpoints:\n- {name: a, address: localhost}\n")
    with pytest.raises(InvalidManifests) as raised:
        await watched.next()
    assert len(raised.value.problems) == 2
    assert "found 'localhost'; allowed is an IP address" in str(raised.value)


async def test_an_edit_right_after_the_first_read_takes_effect(watched: Watched) -> None:
    """The watch starts later, and no event reports an earlier edit."""
    await watched.next()
    watched.model.write_text(MODEL.replace("Critical", "Sheddable"))
    [model] = (await watched.next()).resources.models
    assert model.criticality == "Sheddable"


async def test_a_problem_is_logged_when_it_appears_and_not_again(watched: Watched) -> None:
    """Another file's edit does not repeat it. The log also reports when all files are valid again."""
    await watched.next()
    with capture_logs() as logs:
        watched.pool.write_text(POOL.replace("8000", "0"))
        await edited(watched, watched.model, MODEL.replace("Critical", "Standard"))
        await edited(watched, watched.model, MODEL.replace("Critical", "Sheddable"))
        await edited(watched, watched.pool, POOL.replace("8000", "8001"))
    reported = [line["event"] for line in logs if line["event"] in ("source.invalid", "source.valid")]
    assert reported == ["source.invalid", "source.valid"]


async def test_a_configmaps_volume_is_read_once(tmp_path: Path) -> None:
    """Its files are links into a hidden folder, which an update replaces."""
    watched = Watched(tmp_path)
    for file in (watched.pool, watched.model):
        file.unlink()
    volume = watched.folder
    for version, text in (("..1", POOL), ("..2", POOL.replace("8000", "8001"))):
        (volume / version).mkdir()
        (volume / version / "pool.yaml").write_text(text)
    (volume / "..data").symlink_to("..1")
    watched.pool.symlink_to("..data/pool.yaml")
    with capture_logs() as logs:
        first = await watched.next()
        (volume / "..new").symlink_to("..2")
        (volume / "..new").rename(volume / "..data")
        second = await watched.next()
    ports = [[pool.target_ports for pool in item.resources.pools.values()] for item in (first, second)]
    assert ports == [[(8000,)], [(8001,)]]
    assert not any(line["event"] == "source.warning" for line in logs)
    await watched.source.aclose()  # type: ignore[attr-defined]


async def test_a_removed_file_removes_its_objects(watched: Watched) -> None:
    """It is logged."""
    await watched.next()
    with capture_logs() as logs:
        watched.model.unlink()
        inventory = await watched.next()
    assert inventory.resources.models == ()
    assert "InferenceModel default/inferencemodel-qwen deleted" in [line.get("change") for line in logs]


async def test_an_endpoints_file_among_the_manifests_is_no_manifest(tmp_path: Path) -> None:
    """One folder may contain both."""
    watched = Watched(tmp_path)
    together = watched.endpoints.rename(watched.folder / "endpoints.yaml")
    source = FolderSource(watched.folder, together).inventories()
    inventory = await anext(source)
    assert len(inventory.servers) == 2
    await source.aclose()  # type: ignore[attr-defined]


async def test_a_missing_folder_is_rejected(tmp_path: Path) -> None:
    """With its name."""
    with pytest.raises(InvalidManifests, match="none: is not a folder"):
        await anext(FolderSource(tmp_path / "none", tmp_path / "endpoints.yaml").inventories())


async def test_a_name_that_is_not_utf8_does_not_end_the_source(watched: Watched) -> None:
    """The watcher cannot report it."""
    await watched.next()
    strange = Path(os.fsdecode(bytes(watched.folder) + b"/\xff.yaml"))
    inventory = await edited(watched, strange, POOL.replace("name: vllm-qwen-pool", "name: other"))
    assert "other" in {pool.name for pool in inventory.resources.pools}
    [*_, problem] = Report((Problem(str(strange), 1, None, None, "wrong"),), ()).lines()
    problem.encode()


async def test_a_folder_that_is_replaced_is_followed(watched: Watched) -> None:
    """For example a new checkout."""
    await watched.next()
    watched.folder.rename(watched.folder.with_name("before"))
    watched.folder.mkdir()
    inventory = await edited(watched, watched.pool, POOL.replace("name: vllm-qwen-pool", "name: other"))
    assert [pool.name for pool in inventory.resources.pools] == ["other"]
    inventory = await edited(watched, watched.pool, POOL)
    assert [pool.name for pool in inventory.resources.pools] == ["vllm-qwen-pool"]
