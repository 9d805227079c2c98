"""The ports that a picker opens."""

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from picker.addresses import AddressTaken
from picker.commands.serve import Picker
from picker.settings import ServeSettings
from picker.sources.inventory import Inventory


class NoChanges:
    """A source that is never read."""

    refused = 0

    def inventories(self) -> AsyncIterator[Inventory]:
        raise NotImplementedError


def settings(taken: str, *arguments: str) -> ServeSettings:
    names = ("ext-proc", "health", "admin")
    free = [f"--{name}-address=127.0.0.1:0" for name in names]
    return ServeSettings.read([*free, f"--xds-address={taken}", *arguments], "test")


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


async def test_picker_in_a_cluster_opens_no_eds_port(taken: str) -> None:
    """The extension serves the endpoints; a port of the picker would expose them."""
    Picker(settings(taken), NoChanges())  # must not raise


async def test_picker_with_manifests_needs_the_eds_port(taken: str, tmp_path: Path) -> None:
    endpoints = tmp_path / "endpoints.yaml"
    endpoints.touch()
    with pytest.raises(AddressTaken):
        Picker(settings(taken, f"--manifests={tmp_path}", f"--endpoints={endpoints}"), NoChanges())
