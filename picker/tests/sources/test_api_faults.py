"""Whatever the API server answers, cached objects are kept and the informer recovers."""

import asyncio
import json
from collections.abc import Callable

import pytest
from aiohttp import web
from api_server import ApiServer, api_server, api_servers, thing
from picker.sources import informer
from picker.sources import kubernetes_client as client_module
from picker.sources.api_metrics import API_METRICS
from picker.sources.informer import Informer, Json, kubernetes_client, resource

THING = resource("example.com", "v1", "Thing")
THINGS = "/apis/example.com/v1/things"


def status(code: int, reason: str) -> Callable[[], web.Response]:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "m", "reason": reason, "code": code}
    return lambda: web.json_response(body, status=code)


def answer(code: int, text: str, content_type: str = "text/plain") -> Callable[[], web.Response]:
    return lambda: web.Response(status=code, text=text, content_type=content_type)


ANSWERS = {
    "401": status(401, "Unauthorized"),
    "403 before the authorizer has synced": status(403, "Forbidden"),
    "404 of a load balancer": answer(404, "default backend - 404"),
    "404 of the API server": status(404, "NotFound"),
    "410": status(410, "Expired"),
    "429": status(429, "TooManyRequests"),
    "500": status(500, "InternalError"),
    "503 that is no JSON": answer(503, "upstream connect error", "application/json"),
    "503 of another shape": answer(503, '{"error":"x"}', "application/json"),
    "200 with HTML": answer(200, "<html>login</html>", "text/html"),
    "200 with JSON that is no list": answer(200, "[]", "application/json"),
    "200 with an empty object": answer(200, "{}", "application/json"),
    "200 with a Status": answer(200, '{"kind":"Status","metadata":{}}', "application/json"),
    "200 without items": answer(200, '{"metadata":{"resourceVersion":"9"},"items":null}', "application/json"),
    "200 with a null item": answer(200, '{"metadata":{"resourceVersion":"9"},"items":[null]}', "application/json"),
    "200 with an item without metadata": answer(
        200, '{"metadata":{"resourceVersion":"9"},"items":[{"spec":{}}]}', "application/json"
    ),
    "200 without a version": answer(200, '{"metadata":{},"items":[]}', "application/json"),
    "200 that is cut": answer(200, '{"metadata":{"resourceVersion":"9"},"items":[', "application/json"),
    "200 with deep nesting": answer(200, "[" * 100_000, "application/json"),
}
LINES = {
    "no JSON": b"<html>\n",
    "cut in the middle": b'{"type":"MODIFIED","object":{"meta',
    "a bare Status": b'{"kind":"Status","code":500}\n',
    "an ERROR without an object": b'{"type":"ERROR"}\n',
    "an ERROR of 500": b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"http2: lost"}}\n',
    "an ERROR of 410": b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}\n',
    "an event without metadata": b'{"type":"MODIFIED","object":{"kind":"Thing"}}\n',
    "an event without a name": b'{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"7"}}}\n',
    "an object that is a number": b'{"type":"MODIFIED","object":7}\n',
    "a version that is a number": b'{"type":"MODIFIED","object":{"metadata":{"name":"a","resourceVersion":7}}}\n',
    "bytes that are no UTF-8": b"\xff\xfe\n",
    "an empty line": b"\n",
}


def size_of(object_: Json, before: int | None) -> int | None:
    return object_["spec"]["size"]


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until `holds()`, at most 5 s."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 (the server and the copy have no event for it)
            await asyncio.sleep(0.01)


class Followed:
    """An informer of one thing of size 1, and its server."""

    def __init__(self, server: ApiServer, copy: Informer[int]) -> None:
        self.server, self.copy = server, copy
        self.changed = asyncio.Event()

    @property
    def seen(self) -> dict[str, int]:
        return {name.name: size for name, size in self.copy.objects.items()}

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                assert "a" in self.seen, "what was known got lost"
                await self.changed.wait()
                self.changed.clear()


@pytest.fixture(params=["list", "watch"])
def requested(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("fault", ANSWERS)
async def test_one_bad_response_loses_no_cached_object(fault: str, requested: str) -> None:
    async with api_server() as (server, config):
        server.objects = [thing("a", 1, size=1)]
        followed = Followed(server, Informer(kubernetes_client(config), THING, size_of))
        task = asyncio.create_task(followed.copy.follow(followed.changed.set))
        await asyncio.wait_for(followed.copy.listed.wait(), 5)
        refusals = iter([ANSWERS[fault]()])
        server.refuse = lambda what: next(refusals, None) if what.startswith(requested) else None
        server.objects, server.version = [thing("a", 1, size=1), thing("b", 50, size=2)], 50
        # A version that is too old makes the copy list; the end of the watch makes it watch.
        expired = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old", "status": "Failure"}
        server.events.put_nowait({"type": "ERROR", "object": expired} if requested == "list" else None)
        server.send_event("ADDED", thing("b", 51, size=2))
        await followed.until(lambda: "b" in followed.seen)
        assert followed.seen == {"a": 1, "b": 2}
        assert not task.done()
        task.cancel()
        server.events.put_nowait(None)


@pytest.mark.parametrize("fault", LINES)
async def test_one_bad_line_of_a_watch_loses_no_cached_object(fault: str) -> None:
    async with api_server() as (server, config):
        server.objects = [thing("a", 1, size=1)]
        followed = Followed(server, Informer(kubernetes_client(config), THING, size_of))
        task = asyncio.create_task(followed.copy.follow(followed.changed.set))
        await asyncio.wait_for(followed.copy.listed.wait(), 5)
        server.raw = LINES[fault]
        server.events.put_nowait(None)
        server.objects, server.version = [thing("a", 1, size=1), thing("b", 50, size=2)], 50
        server.send_event("ADDED", thing("b", 51, size=2))
        await followed.until(lambda: "b" in followed.seen)
        assert followed.seen == {"a": 1, "b": 2}
        assert not task.done()
        task.cancel()
        server.events.put_nowait(None)


async def test_an_unreadable_object_keeps_its_predecessor() -> None:
    async with api_server() as (server, config):
        server.objects = [thing("bad", 1), thing("a", 1, size=1)]
        followed = Followed(server, Informer(kubernetes_client(config), THING, size_of))
        task = asyncio.create_task(followed.copy.follow(followed.changed.set))
        await asyncio.wait_for(followed.copy.listed.wait(), 5)
        assert followed.seen == {"a": 1}
        server.send_event("MODIFIED", thing("a", 2))
        server.send_event("ADDED", thing("b", 3, size=3))
        await followed.until(lambda: "b" in followed.seen)
        assert followed.seen == {"a": 1, "b": 3}
        assert server.requested == ["list", "watch 1"]
        task.cancel()
        server.events.put_nowait(None)


async def test_a_listener_that_fails_does_not_end_the_informer() -> None:
    async with api_server() as (server, config):
        server.objects = [thing("a", 1, size=1)]
        copy = Informer(kubernetes_client(config), THING, size_of)
        failures = iter([RuntimeError("a listener's fault")])
        seen = asyncio.Event()

        def changed() -> None:
            if (failure := next(failures, None)) is not None:
                raise failure
            seen.set()

        task = asyncio.create_task(copy.follow(changed))
        await asyncio.wait_for(seen.wait(), 5)
        assert not task.done()
        task.cancel()
        server.events.put_nowait(None)


async def test_expired_versions_in_a_row_are_listed_with_growing_pauses() -> None:
    """The first is listed at once. A busy loop would send thousands of requests."""
    async with api_server() as (server, config):
        server.objects = [thing("a", 1, size=1)]
        copy = Informer(kubernetes_client(config), THING, size_of)
        gone = status(410, "Expired")
        server.refuse = lambda requested: gone() if requested.startswith("watch") else None
        task = asyncio.create_task(copy.follow(lambda: None))
        await asyncio.wait_for(copy.listed.wait(), 5)
        await asyncio.wait({task}, timeout=1.0)
        assert len(server.requested) <= 14
        task.cancel()


async def test_a_watch_that_does_not_end_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer, "WATCH_S", 0)
    monkeypatch.setattr(informer, "WATCH_GRACE_S", 0.1)
    async with api_server() as (server, config):
        server.objects = [thing("a", 1, size=1)]
        copy = Informer(kubernetes_client(config), THING, size_of)
        task = asyncio.create_task(copy.follow(lambda: None))
        await eventually(lambda: server.requested.count("watch 1") >= 2)
        assert len(copy.objects) == 1
        task.cancel()
        server.events.put_nowait(None)


@pytest.mark.parametrize("limit", ["MAX_LINE_BYTES", "MAX_RESPONSE_BYTES"])
async def test_responses_are_bounded_in_bytes(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, limit, 2000)
    async with api_server() as (server, config):
        server.objects = [thing("a", 1, size=1)]
        copy = Informer(kubernetes_client(config), THING, size_of)
        task = asyncio.create_task(copy.follow(lambda: None))
        await asyncio.wait_for(copy.listed.wait(), 5)
        server.objects, server.version = [thing("a", 1, size=1), thing("b" * 3000, 50, size=2)], 50
        errors = API_METRICS.error_count("Thing")
        if limit == "MAX_LINE_BYTES":
            server.send_event("ADDED", thing("b" * 3000, 50, size=2))
        else:
            server.events.put_nowait({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "x"}})
        await eventually(lambda: API_METRICS.error_count("Thing") > errors)
        assert [name.name for name in copy.objects] == ["a"]
        task.cancel()
        server.events.put_nowait(None)


async def test_a_kind_that_discovery_does_not_list_has_no_objects() -> None:
    groups: Json = {"kind": "APIGroupList", "groups": [{"versions": [{"groupVersion": "example.com/v1"}]}]}
    kinds: dict[str, object] = {"kind": "APIResourceList", "resources": [{"name": "things"}]}
    async with api_servers(THINGS, "/apis", "/apis/example.com/v1") as ([server, apis, group], config):
        apis.refuse = lambda _: web.json_response(groups)
        group.refuse = lambda _: web.json_response(kinds)
        server.objects = [thing("a", 1, size=1)]
        copy = Informer(kubernetes_client(config), THING, size_of)
        task = asyncio.create_task(copy.follow(lambda: None))
        await asyncio.wait_for(copy.listed.wait(), 5)
        not_found = status(404, "NotFound")
        server.refuse = lambda _: not_found()
        server.events.put_nowait(None)
        await eventually(lambda: len(group.requested) >= 2)
        assert len(copy.objects) == 1
        kinds["resources"] = []
        await eventually(lambda: not copy.objects)
        task.cancel()


async def test_a_namespace_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer, "MAX_OBJECTS", 2)
    async with api_server() as (server, config):
        many = [thing(f"t{number}", 1, size=1) for number in range(4)]
        for item in many:
            item["metadata"]["namespace"] = "mallory"
        server.objects = [*many, thing("a", 1, size=1)]
        copy = Informer(kubernetes_client(config), THING, size_of)
        task = asyncio.create_task(copy.follow(lambda: None))
        await asyncio.wait_for(copy.listed.wait(), 5)
        assert sorted(name.namespace for name in copy.objects) == ["default", "mallory", "mallory"]
        task.cancel()
        server.events.put_nowait(None)


def test_failures_and_ages_are_metrics() -> None:
    families = {metric.name for metric in API_METRICS.collect()}
    assert {"inference_gateway_api_errors", "inference_gateway_api_cache_age_seconds"} <= families


def test_the_names_of_objects_are_no_labels() -> None:
    labels = json.dumps([sample.labels for metric in API_METRICS.collect() for sample in metric.samples])
    assert "mallory" not in labels
