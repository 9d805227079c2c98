"""An informer's cache stays correct, whatever happens to the connection."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web
from api_server import ApiServer, api_server, thing
from picker.resources.names import ObjectName
from picker.sources.informer import RETRY_MAX_S, Backoff, Informer, Json, kubernetes_client, resource

THING = resource("example.com", "v1", "Thing")


class Followed:
    """An informer, and its server."""

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
    """None for size 0, and the previous value for an object without a size."""
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
    """Added, changed and removed objects."""
    assert followed.seen == {"a": 1}
    followed.server.send_event("ADDED", thing("b", 2, size=2))
    followed.server.send_event("MODIFIED", thing("a", 3, size=3))
    await followed.until(lambda: followed.seen == {"a": 3, "b": 2})
    followed.server.send_event("DELETED", thing("b", 4, size=2))
    await followed.until(lambda: followed.seen == {"a": 3})


async def test_the_reader_decides_what_is_cached_for_an_object(followed: Followed) -> None:
    """None discards the object. The reader gets the cached value."""
    followed.server.send_event("MODIFIED", thing("a", 2))
    followed.server.send_event("ADDED", thing("b", 3, size=2))
    await followed.until(lambda: followed.seen == {"a": 1, "b": 2})
    followed.server.send_event("MODIFIED", thing("b", 4, size=0))
    await followed.until(lambda: followed.seen == {"a": 1})
    assert ObjectName("default", "b") not in followed.copy.objects


async def test_a_watch_that_ends_is_resumed_at_its_version(followed: Followed) -> None:
    """Also at that of a bookmark. Nothing is listed again."""
    followed.server.send_event("BOOKMARK", thing("", 41))
    followed.server.events.put_nowait(None)
    followed.server.send_event("ADDED", thing("b", 42, size=2))
    await followed.until(lambda: "b" in followed.seen)
    assert followed.server.requested == ["list", "watch 1", "watch 41"]


async def test_a_version_that_is_too_old_causes_a_new_list(followed: Followed) -> None:
    """Objects that were removed in between are removed."""
    followed.server.objects, followed.server.version = [thing("c", 50, size=5)], 50
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old", "status": "Failure"}
    followed.server.events.put_nowait({"type": "ERROR", "object": gone})
    await followed.until(lambda: followed.seen == {"c": 5})
    followed.server.send_event("ADDED", thing("d", 51, size=1))
    await followed.until(lambda: "d" in followed.seen)
    assert followed.server.requested == ["list", "watch 1", "list", "watch 50"]


async def test_an_unreachable_server_is_retried(followed: Followed) -> None:
    """Cached objects stay."""
    refusals = iter([web.Response(status=500), web.Response(status=503)])
    followed.server.refuse = lambda _: next(refusals, None)
    followed.server.events.put_nowait(None)
    followed.server.send_event("ADDED", thing("b", 2, size=2))
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


def test_pauses_between_attempts_grow_and_are_jittered() -> None:
    """Half to all of a time that doubles."""
    backoff = Backoff()
    pauses = [backoff.next_s() for _ in range(12)]
    assert 0.05 <= pauses[0] <= 0.1
    assert RETRY_MAX_S / 2 <= pauses[-1] <= RETRY_MAX_S
    backoff.reset()
    assert backoff.next_s() <= 0.1
