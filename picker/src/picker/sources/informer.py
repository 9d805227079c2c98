"""Keeps a cache of an API server's objects of one kind: lists them once, then watches the changes.

Cached objects are kept whatever the API server answers.
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Generic, TypeVar, cast

import httpx2
import msgspec
import structlog
from lightkube import AsyncClient
from lightkube.core.exceptions import NotReadyError

from picker.bounded_text import shorten
from picker.resources.names import ObjectName
from picker.sources.api_metrics import API_METRICS
from picker.sources.kubernetes_client import (
    Resource,
    is_absent,
    kubernetes_client,
    reason_of,
    resource,
    status_code,
)

RETRY_BASE_S, RETRY_MAX_S = 0.1, 10.0
"""Pause between two attempts to reach the API server. It is available within seconds of a restart."""

ABSENT_RETRY_S = 10.0
"""Pause for a kind that the API server does not serve: it may be installed later."""

LIST_S = 1.0
"""Upper limit on the time in which a responsive API server lists a pool's pods, or a Service."""

LIST_DEADLINE_S = 60.0
"""Limit on a whole list. API servers end requests other than watches after 60 s (`--request-timeout`)."""

PAGE_OBJECTS = 500
"""Limit on one page of a list. The default of client-go."""

WATCH_S = 290
"""Seconds after which a watch is requested again. API servers end watches after 5 to 10 minutes themselves."""

WATCH_GRACE_S = 30.0
"""A watch that has not ended so long after `WATCH_S` is cancelled: the API server ignores the timeout, or hangs."""

MAX_OBJECTS = 10_000
"""Limit on the objects of one namespace. Judgement: no fleet has more, and one tenant cannot fill the memory."""

UNREADABLE = (msgspec.MsgspecError, LookupError, TypeError, ValueError, AttributeError, RecursionError, NotReadyError)
"""Errors of reading JSON of an unexpected form."""

Json = Mapping[str, Any]
Kept = TypeVar("Kept")

log = structlog.get_logger(__name__)


class UnreadableResponse(Exception):
    """A response of the API server, or of a proxy before it, that is not of the API's form."""


class Informer(Generic[Kept]):
    """The objects of one kind in one namespace (or all, `*`), selected by labels or a name, by object name.

    `keep` returns the value to cache for an object, given the cached value of its predecessor. None discards the
    object. If it raises one of UNREADABLE, the predecessor's value is kept.
    """

    def __init__(
        self,
        client: AsyncClient,
        kind: Resource,
        keep: Callable[[Json, Kept | None], Kept | None],
        namespace: str = "*",
        labels: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        self._kept: dict[ObjectName, Kept] = {}
        self.objects: Mapping[ObjectName, Kept] = self._kept
        """Updated in place."""
        self.listed = asyncio.Event()
        """Set after the first list, also if the API server has refused it."""
        self.kind_name = kind.__name__
        self._client = client
        self._kind = kind
        self._keep = keep
        self._namespace = namespace
        self._labels: dict[str, Any] | None = dict(labels) if labels else None
        self._fields: dict[str, Any] | None = {"metadata.name": name} if name is not None else None
        self._version: str | None = None
        self._confirmed_at_s: float | None = None
        self._sizes: Counter[str] = Counter()
        """Number of cached objects by namespace."""
        self._reported: str | None = None
        self._unread: set[ObjectName] = set()
        API_METRICS.follow(self)

    @property
    def age_s(self) -> float | None:
        """Seconds since the API server confirmed the cache. None before its first list."""
        if self._confirmed_at_s is None:
            return None
        return time.monotonic() - self._confirmed_at_s

    async def follow(self, changed: Callable[[], None]) -> None:
        """Keep `objects` up to date until cancelled. Calls `changed` after each change. Raises nothing."""
        backoff, expired = Backoff(), False
        while True:
            try:
                if self._version is None:
                    await self._list(changed)
                if await self._watch(changed):
                    backoff.reset()
                    expired = False
            except (httpx2.HTTPError, OSError, UnreadableResponse) as error:
                code = status_code(error) if isinstance(error, httpx2.HTTPError) else None
                if code == HTTPStatus.GONE or isinstance(error, UnreadableResponse):
                    self._version = None
                if code == HTTPStatus.GONE and not expired:
                    expired = True
                    continue
                self._report(error)
                if code in (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN):
                    await self._refused(code, changed)
                if code == HTTPStatus.NOT_FOUND and not self._kept:
                    await asyncio.sleep(ABSENT_RETRY_S * random.uniform(0.5, 1.0))
                    continue
            except Exception:
                # `changed` has failed. Nothing else updates the cache, so this lists again.
                self._version = None
                API_METRICS.failed(self.kind_name, "internal")
                log.exception("kubernetes.follow_failed", kind=self.kind_name)
            await asyncio.sleep(backoff.next_s())

    async def _list(self, changed: Callable[[], None]) -> None:
        listing = self._client.list(  # pyright: ignore[reportUnknownMemberType]
            self._kind, namespace=self._namespace, labels=self._labels, fields=self._fields, chunk_size=PAGE_OBJECTS
        )
        found: dict[ObjectName, Kept] = {}
        sizes: Counter[str] = Counter()
        async with asyncio.timeout(LIST_DEADLINE_S):
            try:
                async for item in listing:
                    self._take(found, sizes, cast(Json, item))
                version = _version(listing.resourceVersion)
            except UNREADABLE as error:
                raise UnreadableResponse(f"list: {_first_line(error)}") from error
        self._kept.clear()
        self._kept.update(found)
        self._sizes, self._version = sizes, version
        self._unread &= self._kept.keys()
        self._confirm()
        self.listed.set()
        changed()

    async def _watch(self, changed: Callable[[], None]) -> bool:
        """Follow one watch to its end. Returns whether it had events or lasted longer than `RETRY_MAX_S`."""
        events = self._client.watch(  # pyright: ignore[reportUnknownMemberType]
            self._kind,
            namespace=self._namespace,
            labels=self._labels,
            fields=self._fields,
            resource_version=self._version,
            server_timeout=WATCH_S,
        )
        loop = asyncio.get_running_loop()
        began_s, has_events = loop.time(), False
        async with asyncio.timeout(WATCH_S + WATCH_GRACE_S), aclosing(cast(Any, events)) as stream:
            async for event, object_, version in _read(stream):
                has_events = True
                self._confirm()
                if event == "DELETED":
                    self._discard(object_name(object_))
                elif event != "BOOKMARK":
                    self._take(self._kept, self._sizes, object_)
                if event != "BOOKMARK":
                    changed()
                self._version = version
        self._confirm()
        return has_events or loop.time() - began_s > RETRY_MAX_S

    def _take(self, kept: dict[ObjectName, Kept], sizes: Counter[str], object_: Json) -> None:
        name = object_name(object_)
        before = self._kept.get(name)
        try:
            value = self._keep(object_, before)
            self._unread.discard(name)
        except UNREADABLE as error:
            value = before
            self._report_object(name, error)
        if value is None:
            if kept.pop(name, None) is not None:
                sizes[name.namespace] -= 1
        elif name in kept:
            kept[name] = value
        elif sizes[name.namespace] < MAX_OBJECTS:
            kept[name] = value
            sizes[name.namespace] += 1
        else:
            self._report_object(name, ValueError(f"the namespace has more than {MAX_OBJECTS} objects of the kind"))

    def _discard(self, name: ObjectName) -> None:
        self._unread.discard(name)
        if self._kept.pop(name, None) is not None:
            self._sizes[name.namespace] -= 1

    async def _refused(self, code: int | None, changed: Callable[[], None]) -> None:
        """Handle a refused list: a kind that was never listed has no objects. One that was listed has none if discovery
        does not list it."""
        self._version = None
        if self._confirmed_at_s is None and not self.listed.is_set():
            self.listed.set()
            changed()
        elif code == HTTPStatus.NOT_FOUND and self._kept and await is_absent(self._client, self._kind):
            log.warning("kubernetes.kind_removed", kind=self.kind_name, objects=len(self._kept))
            self._kept.clear()
            self._sizes.clear()
            changed()

    def _confirm(self) -> None:
        self._confirmed_at_s = time.monotonic()
        if self._reported is not None:
            self._reported = None
            log.info("kubernetes.reachable", kind=self.kind_name)

    def _report(self, error: Exception) -> None:
        """Count each failure. Log the first one, and each with another reason."""
        reason = reason_of(error)
        API_METRICS.failed(self.kind_name, reason)
        if reason != self._reported:
            self._reported = reason
            log.warning("kubernetes.unreachable", kind=self.kind_name, reason=reason, error=_first_line(error))

    def _report_object(self, name: ObjectName, error: Exception) -> None:
        API_METRICS.failed(self.kind_name, "object")
        if name not in self._unread and len(self._unread) < MAX_OBJECTS:
            self._unread.add(name)
            problem = _first_line(error)
            log.error("kubernetes.object_unreadable", kind=self.kind_name, object=str(name), problem=problem)


async def _read(events: AsyncIterator[tuple[str, Any]]) -> AsyncIterator[tuple[str, Json, str]]:
    """Event, object and version of each line of a watch. Raises UnreadableResponse."""
    while True:
        try:
            event, object_ = await anext(events)
            version = _version(object_["metadata"]["resourceVersion"])
            if event != "BOOKMARK":
                object_name(object_)
        except StopAsyncIteration:
            return
        except UNREADABLE as error:
            raise UnreadableResponse(f"watch: {_first_line(error)}") from error
        yield event, object_, version


def _version(found: object) -> str:
    """The resourceVersion. Raises ValueError for anything that cannot be one."""
    if not isinstance(found, str) or not found or len(found) > 253:
        raise ValueError("no resourceVersion")
    return found


def _first_line(error: Exception) -> str:
    return shorten(str(error).partition("\n")[0] or type(error).__name__)


class Backoff:
    """Pauses between failed attempts. Each is twice the previous one, with jitter, so that clients do not all connect
    to a restarted API server at once."""

    def __init__(self, base_s: float = RETRY_BASE_S, max_s: float = RETRY_MAX_S) -> None:
        self._base_s, self._max_s = base_s, max_s
        self._longest_s = base_s

    def next_s(self) -> float:
        longest_s, self._longest_s = self._longest_s, min(self._max_s, 2 * self._longest_s)
        return longest_s * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._longest_s = self._base_s


def object_name(object_: Json) -> ObjectName:
    """The name of an object. The namespace of a cluster-scoped object is empty. Raises one of UNREADABLE."""
    metadata = object_["metadata"]
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    if not isinstance(namespace, str) or not isinstance(name, str):
        raise TypeError("metadata.name and metadata.namespace must be strings")
    return ObjectName(namespace, name)


__all__ = [
    "LIST_S",
    "RETRY_MAX_S",
    "UNREADABLE",
    "Backoff",
    "Informer",
    "Json",
    "Resource",
    "kubernetes_client",
    "object_name",
    "resource",
    "status_code",
]
