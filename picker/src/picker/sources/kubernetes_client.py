"""The client of the Kubernetes API server. It limits the size of responses."""

import socket
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any, cast

import httpx2
import msgspec
from lightkube import ApiError, AsyncClient
from lightkube.config import client_adapter
from lightkube.config.client_adapter import verify_cluster
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.generic_resource import (
    GenericNamespacedResource,
    create_namespaced_resource,  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
)

Resource = type[GenericNamespacedResource]

MAX_RESPONSE_BYTES = 64 << 20
"""Limit on one response, watches excepted. A page of 500 pods of 20 KB each has 10 MB. etcd's limit on an object is 1.5
MiB."""

MAX_LINE_BYTES = 8 << 20
"""Limit on one event of a watch. It has one object: at most 1.5 MiB in etcd, where some are more compact than as
JSON."""

REQUEST_TIMEOUT_S = 10.0
"""Limit on the API server's silence, watches excepted. The default of lightkube."""


def resource(group: str, version: str, kind: str) -> Resource:
    """The kind as lightkube's resource type. Its objects are plain JSON."""
    return create_namespaced_resource(group, version, kind, kind.lower() + "s")


class _BoundedBody(httpx2.AsyncByteStream):
    """The body of a response. Iteration raises RemoteProtocolError if it is longer than allowed."""

    def __init__(self, body: httpx2.AsyncByteStream, is_watch: bool) -> None:
        self._body = body
        self._is_watch = is_watch

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size, limit = 0, MAX_LINE_BYTES if self._is_watch else MAX_RESPONSE_BYTES
        async for piece in self._body:
            first, last = (piece.find(b"\n"), piece.rfind(b"\n")) if self._is_watch else (-1, -1)
            longest = size + (len(piece) if first < 0 else first)
            size = longest if last < 0 else len(piece) - last - 1
            if longest > limit:
                raise httpx2.RemoteProtocolError(f"the API server's response has more than {limit} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._body.aclose()


class _Transport(httpx2.AsyncHTTPTransport):
    """Adds bookmarks to watches, limits to responses, and a content type to errors that lack one.

    Bookmarks keep the resourceVersion to resume from recent where little changes. lightkube expects a content type,
    which errors of load balancers may lack. Responses are not compressed, so their size is known as they arrive.
    """

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        is_watch = "watch" in request.url.params
        if is_watch:
            request.url = request.url.copy_merge_params({"allowWatchBookmarks": "true"})
        request.headers["accept-encoding"] = "identity"
        response = await super().handle_async_request(request)
        response.headers.setdefault("content-type", "text/plain")
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx2.RemoteProtocolError("the API server's response is compressed, which was not requested")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _BoundedBody(response.stream, is_watch)
        return response


def kubernetes_client(config: SingleConfig | None = None) -> AsyncClient:
    """A client of `config`, by default of the cluster that this runs in, of KUBECONFIG, or of `~/.kube/config`.

    Raises lightkube's ConfigError.
    """
    config = config or KubeConfig.from_env().get()
    assert config is not None
    return AsyncClient(config=config, transport=_transport(config))


def _transport(config: SingleConfig) -> _Transport:
    # A watch is silent between its bookmarks, so the kernel checks whether the peer is still there.
    keepalive = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    ]
    if hasattr(socket, "TCP_KEEPIDLE"):
        keepalive.append((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15))
    assert config.user is not None
    return _Transport(
        verify=verify_cluster(config.cluster, config.user, config.abs_file),
        socket_options=keepalive,
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
    )


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    group_version: str


class _Group(msgspec.Struct, frozen=True):
    versions: tuple[_Version, ...]


class _GroupList(msgspec.Struct, frozen=True):
    """`/apis`: the groups that the API server serves."""

    kind: Annotated[str, msgspec.Meta(pattern="^APIGroupList$")]
    groups: tuple[_Group, ...]


class _Kind(msgspec.Struct, frozen=True):
    name: str


class _KindList(msgspec.Struct, frozen=True):
    """`/apis/GROUP/VERSION`: the kinds of one group."""

    kind: Annotated[str, msgspec.Meta(pattern="^APIResourceList$")]
    resources: tuple[_Kind, ...]


async def is_absent(client: AsyncClient, kind: Resource) -> bool:
    """Whether the API server's discovery reports that it does not serve `kind`.

    False if discovery fails or has an unexpected form: a load balancer's 404 is no evidence.
    https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api
    """
    api = kind._api_info  # pyright: ignore[reportPrivateUsage]
    group_version = f"{api.resource.group}/{api.resource.version}"
    if not api.resource.group:
        return False  # The core group is always served.
    config = client.config
    transport = _transport(config)
    # The annotation allows synchronous transports only. lightkube's own asynchronous client passes an asynchronous one.
    parameters = client_adapter.ConnectionParams(httpx2.Timeout(REQUEST_TIMEOUT_S), transport=cast(Any, transport))
    try:
        async with client_adapter.AsyncClient(config, parameters) as discovery:
            groups = msgspec.json.decode((await _ok(discovery, "/apis")).content, type=_GroupList)
            if group_version not in {version.group_version for group in groups.groups for version in group.versions}:
                return True
            kinds = msgspec.json.decode((await _ok(discovery, f"/apis/{group_version}")).content, type=_KindList)
            return api.plural not in {resource.name for resource in kinds.resources}
    except (httpx2.HTTPError, OSError, msgspec.MsgspecError):
        return False


async def _ok(client: httpx2.AsyncClient, path: str) -> httpx2.Response:
    response = await client.get(path, headers={"accept": "application/json"})
    return response.raise_for_status()


def status_code(error: httpx2.HTTPError) -> int | None:
    """The HTTP status of the API server's response. None without a response."""
    if isinstance(error, ApiError):
        return error.status.code
    return error.response.status_code if isinstance(error, httpx2.HTTPStatusError) else None


def reason_of(error: Exception) -> str:
    """The metric label of a failure: an HTTP status, `unreachable`, `timeout` or `unreadable`."""
    match error:
        case TimeoutError() | httpx2.TimeoutException():
            return "timeout"
        case httpx2.HTTPError() if (code := status_code(error)) is not None:
            return str(code) if code in set(HTTPStatus) else "unreadable"
        case httpx2.TransportError() | OSError() if not isinstance(error, httpx2.ProtocolError):
            return "unreachable"
        case _:
            return "unreadable"
