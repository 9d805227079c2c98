"""Keeps a copy of the objects of one kind that an API server has: list once, then follow the changes.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes"""

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Generic, TypeVar, cast

import httpx2
import structlog
from lightkube import ApiError, AsyncClient
from lightkube.config.client_adapter import verify_cluster
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.generic_resource import (
    GenericNamespacedResource,
    create_namespaced_resource,  # pyright: ignore[reportUnknownVariableType]
)

from picker.resources.names import ObjectName

RETRY_BASE_S, RETRY_MAX_S = 0.1, 10.0
"""Between two attempts to reach the API server; it is back within seconds of a restart."""

ABSENT_RETRY_S = 10.0
"""A kind that the API server does not serve may be installed later."""

LIST_S = 1.0
"""Longer than an API server that answers takes to list a pool's pods, or a Service."""

WATCH_S = 290
"""Seconds after which a watch is asked for anew; API servers end them after 5 to 10 minutes by themselves."""

Json = Mapping[str, Any]
Kept = TypeVar("Kept")
Resource = type[GenericNamespacedResource]

log = structlog.get_logger(__name__)


def resource(group: str, version: str, kind: str) -> Resource:
    """The kind as lightkube wants it; objects come as plain JSON."""
    return create_namespaced_resource(group, version, kind, kind.lower() + "s")


class _Transport(httpx2.AsyncHTTPTransport):
    """What lightkube leaves out: it does not ask for bookmarks, which keep the version to resume from fresh where
    little changes, and takes for granted that an error has a content type, which those of load balancers may lack."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if "watch" in request.url.params:
            request.url = request.url.copy_merge_params({"allowWatchBookmarks": "true"})
        response = await super().handle_async_request(request)
        response.headers.setdefault("content-type", "text/plain")
        return response


def kubernetes_client(config: SingleConfig | None = None) -> AsyncClient:
    """Of the cluster that this runs in, or of KUBECONFIG, or of `~/.kube/config`, unless `config` says. Raises
    lightkube's ConfigError."""
    # It tells of every request at the level where we tell of every change.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    config = config or KubeConfig.from_env().get()
    assert config is not None
    # A watch waits for hours without a byte: only the kernel can notice that the other end has gone.
    keepalive = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    ]
    if hasattr(socket, "TCP_KEEPIDLE"):
        keepalive.append((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15))
    assert config.user is not None
    transport = _Transport(
        verify=verify_cluster(config.cluster, config.user, config.abs_file),
        socket_options=keepalive,
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
    )
    return AsyncClient(config=config, transport=transport)


class Copy(Generic[Kept]):
    """The objects of one kind in one namespace (or all, `*`), as far as labels or a name select them, by name.

    What is kept of an object is `keep`'s word, who is also told what was kept of its predecessor; None is an object
    that is of no interest."""

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
        """Changed in place."""
        self.listed = asyncio.Event()
        """Set once the objects are known, be it that the API server has no such kind."""
        self._client = client
        self._kind = kind
        self._keep = keep
        self._namespace = namespace
        self._labels: dict[str, Any] | None = dict(labels) if labels else None
        self._fields: dict[str, Any] | None = {"metadata.name": name} if name is not None else None
        self._version: str | None = None

    async def follow(self, changed: Callable[[], None]) -> None:
        """Keep `objects` up to date, for ever; `changed` is called after each change."""
        backoff = Backoff()
        while True:
            try:
                if self._version is None:
                    await self._list(changed)
                await self._watch(changed)
                backoff.reset()
            except httpx2.HTTPError as error:
                match status_code(error):
                    case HTTPStatus.GONE:
                        self._version = None
                        continue
                    case HTTPStatus.NOT_FOUND | HTTPStatus.FORBIDDEN:
                        self._has_none(error, changed)
                        await asyncio.sleep(ABSENT_RETRY_S * random.uniform(0.5, 1.0))
                        continue
                    case _:
                        self._tell(error)
            except OSError as error:
                self._tell(error)
            await asyncio.sleep(backoff.next_s())

    async def _list(self, changed: Callable[[], None]) -> None:
        listing = self._client.list(  # pyright: ignore[reportUnknownMemberType]
            self._kind, namespace=self._namespace, labels=self._labels, fields=self._fields
        )
        found: dict[ObjectName, Kept] = {}
        async for each in listing:
            self._take(found, cast(Json, each))
        self._kept.clear()
        self._kept.update(found)
        self._version = listing.resourceVersion
        self.listed.set()
        changed()

    async def _watch(self, changed: Callable[[], None]) -> None:
        events = self._client.watch(  # pyright: ignore[reportUnknownMemberType]
            self._kind,
            namespace=self._namespace,
            labels=self._labels,
            fields=self._fields,
            resource_version=self._version,
            server_timeout=WATCH_S,
        )
        async for event, each in events:
            object_ = cast(Json, each)
            self._version = object_["metadata"]["resourceVersion"]
            if event == "BOOKMARK":
                continue
            if event == "DELETED":
                self._kept.pop(object_name(object_), None)
            else:
                self._take(self._kept, object_)
            changed()

    def _take(self, kept: dict[ObjectName, Kept], object_: Json) -> None:
        name = object_name(object_)
        keeping = self._keep(object_, self._kept.get(name))
        if keeping is not None:
            kept[name] = keeping
        else:
            kept.pop(name, None)

    def _has_none(self, error: Exception, changed: Callable[[], None]) -> None:
        """A kind that the API server does not serve, or does not show us, has no objects."""
        if not self.listed.is_set() or self._kept:
            log.warning("kubernetes.kind_unavailable", kind=self._kind.__name__, reason=str(error).splitlines()[0])
            self._kept.clear()
            self.listed.set()
            changed()
        self._version = None

    def _tell(self, error: Exception) -> None:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("kubernetes.unreachable", kind=self._kind.__name__, reason=reason)


class Backoff:
    """Pauses between attempts that fail: doubled each time, and jittered, so that a restarted API server does not meet
    all its clients at once."""

    def __init__(self) -> None:
        self._longest_s = RETRY_BASE_S

    def next_s(self) -> float:
        longest_s, self._longest_s = self._longest_s, min(RETRY_MAX_S, 2 * self._longest_s)
        return longest_s * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._longest_s = RETRY_BASE_S


def status_code(error: httpx2.HTTPError) -> int | None:
    """The HTTP status that an API server answered with; None when it did not answer."""
    if isinstance(error, ApiError):
        return error.status.code
    return error.response.status_code if isinstance(error, httpx2.HTTPStatusError) else None


def object_name(object_: Json) -> ObjectName:
    """An object's; one that is in no namespace has an empty one."""
    metadata = object_["metadata"]
    return ObjectName(metadata.get("namespace", ""), metadata["name"])
