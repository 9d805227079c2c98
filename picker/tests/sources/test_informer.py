"""A copy of an API server's objects stays right, whatever happens to the connection."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web
from api_server import ApiServer, api_server, thing
from picker.resources.names import ObjectName
from picker.sources.informer import RETRY_MAX_S, Backoff, Informer, Json, kubernetes_client, resource

THING = resource("example.com", "v1", "Thing")


class Followed:
    """A copy that is being kept, and the server that it follows."""

    def __init__(self, server: ApiServer, copy: Informer[int]) -> None:
        self.server = server
        self.copy = copy
        self.changed = asyncio.Event()

    @property
    def seen(self) -> dict[str, int]:
        return {name.name: size for name, size in self.copy.objects.items()}

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not holds():
                await self.changed.wait()
                self.changed.clear()


def size_of(object_: Json, before: int | None) -> int | None:
    """A thing of size 0 is of no interest; one without a size keeps what it said before."""
    size = object_["spec"].get("size", before)
    return size or None


@pytest.fixture
async def followed() -> AsyncIterator[Followed]:
    async with api_server() as (server, config):
        server.objects = [thing("a", 1, size=1)]
        created = Followed(server, Informer(kubernetes_client(config), THING, size_of))
        task = asyncio.create_task(created.copy.follow(created.changed.set))
        await asyncio.wait_for(created.copy.listed.wait(), 5)
        yield created
        task.cancel()
        server.events.put_nowait(None)


async def test_changes_follow_the_list(followed: Followed) -> None:
    """What came, what changed, what went."""
    assert followed.seen == {"a": 1}
    followed.server.tell("ADDED", thing("b", 2, size=2))
    followed.server.tell("MODIFIED", thing("a", 3, size=3))
    await followed.until(lambda: followed.seen == {"a": 3, "b": 2})
    followed.server.tell("DELETED", thing("b", 4, size=2))
    await followed.until(lambda: followed.seen == {"a": 3})


async def test_an_object_is_kept_as_its_reader_says(followed: Followed) -> None:
    """None is of no interest; the reader knows what was kept before."""
    followed.server.tell("MODIFIED", thing("a", 2))
    followed.server.tell("ADDED", thing("b", 3, size=2))
    await followed.until(lambda: followed.seen == {"a": 1, "b": 2})
    followed.server.tell("MODIFIED", thing("b", 4, size=0))
    await followed.until(lambda: followed.seen == {"a": 1})
    assert ObjectName("default", "b") not in followed.copy.objects


async def test_a_watch_that_ends_is_resumed_where_it_was(followed: Followed) -> None:
    """A bookmark counts, too; nothing is listed again."""
    followed.server.tell("BOOKMARK", thing("", 41))
    followed.server.events.put_nowait(None)
    followed.server.tell("ADDED", thing("b", 42, size=2))
    await followed.until(lambda: "b" in followed.seen)
    assert followed.server.requested == ["list", "watch 1", "watch 41"]


async def test_a_version_that_is_too_old_is_listed_anew(followed: Followed) -> None:
    """What went in the meantime is gone."""
    followed.server.objects, followed.server.version = [thing("c", 50, size=5)], 50
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old", "status": "Failure"}
    followed.server.events.put_nowait({"type": "ERROR", "object": gone})
    await followed.until(lambda: followed.seen == {"c": 5})
    followed.server.tell("ADDED", thing("d", 51, size=1))
    await followed.until(lambda: "d" in followed.seen)
    assert followed.server.requested == ["list", "watch 1", "list", "watch 50"]


async def test_a_server_that_is_away_is_asked_again(followed: Followed) -> None:
    """What is known stays known."""
    refusals = iter([web.Response(status=500), web.Response(status=503)])
    followed.server.refuse = lambda _: next(refusals, None)
    followed.server.events.put_nowait(None)
    followed.server.tell("ADDED", thing("b", 2, size=2))
    await followed.until(lambda: followed.seen == {"a": 1, "b": 2})
    assert followed.server.requested == ["list", "watch 1", "watch 1", "watch 1", "watch 1"]


async def test_a_kind_that_is_not_served_has_no_objects() -> None:
    """Its definition may be installed later."""
    async with api_server() as (server, config):
        server.refuse = lambda _: web.Response(status=404)
        copy = Informer(kubernetes_client(config), THING, size_of)
        task = asyncio.create_task(copy.follow(lambda: None))
        await asyncio.wait_for(copy.listed.wait(), 5)
        assert copy.objects == {}
        task.cancel()


def test_attempts_are_ever_further_apart_and_never_in_step() -> None:
    """Half to all of a time that doubles."""
    backoff = Backoff()
    pauses = [backoff.next_s() for _ in range(12)]
    assert 0.05 <= pauses[0] <= 0.1
    assert RETRY_MAX_S / 2 <= pauses[-1] <= RETRY_MAX_S
    backoff.reset()
    assert backoff.next_s() <= 0.1
