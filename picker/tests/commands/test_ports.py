"""Which ports a picker opens."""

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from picker.addresses import AddressTaken
from picker.commands.serve import Picker
from picker.settings import ServeSettings
from picker.sources.inventory import Inventory


class NoChanges:
    """A source that is not asked."""

    refused = 0

    def inventories(self) -> AsyncIterator[Inventory]:
        raise NotImplementedError


def settings(taken: str, *given: str) -> ServeSettings:
    names = ("ext-proc", "health", "admin")
    free = [f"--{name}-address=127.0.0.1:0" for name in names]
    return ServeSettings.read([*free, f"--xds-address={taken}", *given], "test")


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield f"127.0.0.1:{held.getsockname()[1]}"


async def test_a_picker_in_a_cluster_opens_no_port_for_endpoints(taken: str) -> None:
    """The extension serves them; a port of the picker would tell strangers."""
    Picker(settings(taken), NoChanges())


async def test_a_picker_with_manifests_needs_the_port_for_endpoints(taken: str, tmp_path: Path) -> None:
    endpoints = tmp_path / "endpoints.yaml"
    endpoints.touch()
    with pytest.raises(AddressTaken):
        Picker(settings(taken, f"--manifests={tmp_path}", f"--endpoints={endpoints}"), NoChanges())
