"""Writes the statuses of InferencePools, InferenceModels, InferenceObjectives and InferenceModelRewrites."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import httpx2
import structlog
from lightkube import AsyncClient
from lightkube.types import PatchType

from picker.bounded_text import shorten
from picker.controller.api_objects import (
    GRPC_ROUTE,
    HTTP_ROUTE,
    SERVICE,
    Service,
    read_grpc_route,
    read_pool_route,
    read_service,
)
from picker.controller.events import EventRecorder
from picker.controller.model_status import (
    Claims,
    model_claims,
    model_conditions,
    no_claims,
    objective_conditions,
    rewrite_claims,
    rewrite_conditions,
)
from picker.controller.pool_status import (
    ConditionResult,
    PickerReference,
    RouteIndex,
    conditions_of,
    parents,
    pool_conditions,
    same_but_for_times,
    same_entries,
)
from picker.resources.gateway_api import GROUP
from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2, ROUTER_GROUP, ObjectName, PoolName
from picker.resources.pool_annotations import strategy_in_force
from picker.resources.pool_wire import PICKER_PORT
from picker.resources.status_wire import (
    Condition,
    ObjectReference,
    ParentReference,
    ParentStatus,
    ParentStatusV1Alpha2,
    StatusWire,
)
from picker.sources.api_metrics import API_METRICS
from picker.sources.informer import Backoff, Informer, Json, Resource, object_name, resource, status_code

POOL_V1 = resource(POOL_GROUP_V1, "v1", "InferencePool")
POOL_V1ALPHA2 = resource(POOL_GROUP_V1ALPHA2, "v1alpha2", "InferencePool")
_ConditionsOf = Callable[[Json, Claims, Collection[PoolName]], Sequence[ConditionResult]]
"""Computes the conditions of an object from the owners of names and the existing pools."""
_ClaimsOf = Callable[[Iterable[Json]], Claims]

MODEL_KINDS: Sequence[tuple[Resource, _ClaimsOf, _ConditionsOf]] = (
    (resource(POOL_GROUP_V1ALPHA2, "v1alpha2", "InferenceModel"), model_claims, model_conditions),
    *(
        (resource(group, "v1alpha2", kind), claims, conditions_of_object)
        for kind, claims, conditions_of_object in (
            ("InferenceObjective", no_claims, objective_conditions),
            ("InferenceModelRewrite", rewrite_claims, rewrite_conditions),
        )
        for group in (POOL_GROUP_V1ALPHA2, ROUTER_GROUP)
    ),
)

SETTLE_S = 0.05
RETRY_BASE_S, RETRY_MAX_S = 2.0, 60.0
"""Backoff after a failed write. Judgement: a restarted API server is back within a minute."""

GRPC_ROUTES_S = 10.0
"""Limit for the first list of GRPCRoutes. A ClusterRole without them must not block all statuses. Judgement."""

log = structlog.get_logger(__name__)


class StatusWriter:
    """Updates statuses when pools, HTTPRoutes or Services change. Runs in one replica at a time."""

    def __init__(
        self, client: AsyncClient, controller: str, resolve_service: Callable[[ObjectName], ObjectName]
    ) -> None:
        """`controller`: the `controllerName` of the own GatewayClasses. `resolve_service` maps the Service that a pool
        names to the one that serves it."""
        self._client = client
        self._controller = controller
        self._resolve_service = resolve_service
        self._events = EventRecorder(client)
        self._problems: dict[str, str] = {}
        """The last error of a status write, by the object's uid."""

    async def run(self) -> None:
        """Runs until cancelled. Raises nothing: a failure for one object is logged once, counted, and retried."""
        changed = asyncio.Event()
        routes = Informer(self._client, HTTP_ROUTE, read_pool_route)
        grpc_routes = Informer(self._client, GRPC_ROUTE, read_grpc_route)
        services = Informer(self._client, SERVICE, read_service)
        pools = [Informer(self._client, kind, _whole) for kind in (POOL_V1, POOL_V1ALPHA2)]
        others = [Informer(self._client, kind, _whole) for kind, _, _ in MODEL_KINDS]
        backoff = Backoff(RETRY_BASE_S, RETRY_MAX_S)
        async with asyncio.TaskGroup() as tasks:
            for informer in (routes, grpc_routes, services, *pools, *others):
                tasks.create_task(informer.follow(changed.set))
            for informer in (routes, services, *pools, *others):
                await informer.listed.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(GRPC_ROUTES_S):
                    await grpc_routes.listed.wait()
            while True:
                changed.clear()
                index = RouteIndex.of((*routes.objects.values(), *grpc_routes.objects.values()))
                written = await self._write_pools(pools, index, services.objects)
                names = {_pool_name(pool) for informer in pools for pool in informer.objects.values()}
                if await self._write_models(others, names) and written:
                    backoff.reset()
                else:
                    asyncio.get_running_loop().call_later(backoff.next_s(), changed.set)
                self._keep_only(object_ for informer in (*pools, *others) for object_ in informer.objects.values())
                await changed.wait()
                await asyncio.sleep(SETTLE_S)

    async def _write_pools(
        self, pools: Sequence[Informer[Json]], routes: RouteIndex, services: Mapping[ObjectName, Service]
    ) -> bool:
        """Writes changed statuses. Returns whether all writes succeeded."""

        async def write(kind: Resource, pool: Json) -> bool:
            await self._events.record_problems(pool)
            status = self._status(pool, routes, services)
            return status is None or await self._write(kind, pool, status)

        written = True
        for kind, informer in zip((POOL_V1, POOL_V1ALPHA2), pools, strict=True):
            for pool in list(informer.objects.values()):
                written = await self._isolated(pool, partial(write, kind, pool)) and written
        return written

    async def _write_models(self, informers: Sequence[Informer[Json]], pools: Collection[PoolName]) -> bool:
        async def write(kind: Resource, object_: Json, conditions_of_object: _ConditionsOf, claims: Claims) -> bool:
            await self._events.record_problems(object_)
            before = cast(list[Json], cast(Json, object_.get("status") or {}).get("conditions") or [])
            generation = object_["metadata"].get("generation", 0)
            found = conditions_of_object(object_, claims, pools)
            conditions = [_json(condition.condition(generation, _now(), before)) for condition in found]
            return same_but_for_times(before, conditions) or await self._write(
                kind, object_, {"conditions": conditions}
            )

        written = True
        for (kind, claims_of, conditions_of_object), informer in zip(MODEL_KINDS, informers, strict=True):
            objects = list(informer.objects.values())
            claims = claims_of(objects)
            for object_ in objects:
                attempt = partial(write, kind, object_, conditions_of_object, claims)
                written = await self._isolated(object_, attempt) and written
        return written

    async def _isolated(self, object_: Json, write: Callable[[], Awaitable[bool]]) -> bool:
        """Runs `write` for one object, and returns whether it succeeded. A failure does not affect other objects."""
        # Yields to the event loop between objects, so that Envoy's requests are served.
        await asyncio.sleep(0)
        try:
            written, problem = await write(), ""
        except Exception as error:
            written, problem = False, type(error).__name__
            if self._is_new(object_, problem):
                log.exception("status.failed", object=_title(object_))
        if written:
            self._problems.pop(_uid(object_), None)
        else:
            API_METRICS.failed(str(object_["kind"]), "object")
        return written

    def _is_new(self, object_: Json, problem: str) -> bool:
        """Records `problem`, and returns whether it differs from the last one of the object."""
        uid = _uid(object_)
        if self._problems.get(uid) == problem:
            return False
        self._problems[uid] = problem
        return True

    def _keep_only(self, objects: Iterable[Json]) -> None:
        uids = {_uid(object_) for object_ in objects}
        self._events.keep_only(uids)
        self._problems = {uid: problem for uid, problem in self._problems.items() if uid in uids}

    def _status(self, pool: Json, routes: RouteIndex, services: Mapping[ObjectName, Service]) -> dict[str, Any] | None:
        """Returns the status that `pool` should have; None if it is unchanged."""
        metadata, name = pool["metadata"], _pool_name(pool)
        is_v1 = name.group == POOL_GROUP_V1
        field = "parents" if is_v1 else "parent"
        before = cast(list[Json], cast(Json, pool.get("status") or {}).get(field) or [])
        own = parents(name, routes.of_pool(name), self._controller)
        foreign = [entry for entry in before if self._is_foreign(entry, name, routes, is_v1)]
        picker = self._picker(pool, is_v1)
        annotations = cast(Mapping[str, str], metadata.get("annotations") or {})
        entries: list[Json] = list(foreign)
        for gateway, route_accepted in own.items():
            results = pool_conditions(
                name, picker, route_accepted, services, annotations, strategy_in_force(pool), routes.of_pool(name)
            )
            previous = conditions_of(gateway, before)
            conditions = tuple(
                condition.condition(metadata.get("generation", 0), _now(), previous) for condition in results
            )
            entries.append(_json(self._entry(gateway, conditions, is_v1)))
        return None if same_entries(before, entries) else {field: entries}

    def _is_foreign(self, entry: Json, pool: PoolName, routes: RouteIndex, is_v1: bool) -> bool:
        """Returns whether another controller owns an entry of the status."""
        reference = entry["parentRef"]
        if is_v1:
            return entry.get("controllerName") not in (None, self._controller)
        gateway = ObjectName(reference.get("namespace") or pool.namespace, reference.get("name", ""))
        others = routes.controllers_of(gateway)
        return reference.get("kind") == "Gateway" and bool(others) and self._controller not in others

    def _entry(self, gateway: ObjectName, conditions: tuple[Condition, ...], is_v1: bool) -> StatusWire:
        if is_v1:
            reference = ParentReference(namespace=gateway.namespace, name=gateway.name)
            return ParentStatus(parent_ref=reference, controller_name=self._controller, conditions=conditions)
        return ParentStatusV1Alpha2(
            parent_ref=ObjectReference(
                api_version=f"{GROUP}/v1", kind="Gateway", namespace=gateway.namespace, name=gateway.name
            ),
            conditions=conditions,
        )

    def _picker(self, pool: Json, is_v1: bool) -> PickerReference | None:
        reference = pool["spec"].get("endpointPickerRef" if is_v1 else "extensionRef")
        if reference is None:
            return None
        port = cast(Json, reference.get("port") or {}).get("number") if is_v1 else reference.get("portNumber")
        service = self._resolve_service(ObjectName(pool["metadata"]["namespace"], reference["name"]))
        return PickerReference(
            reference.get("group", ""), reference.get("kind", "Service"), service, port or PICKER_PORT
        )

    async def _write(self, kind: Resource, object_: Json, status: dict[str, Any]) -> bool:
        metadata = object_["metadata"]
        title = _title(object_)
        try:
            await self._client.patch(  # pyright: ignore[reportUnknownMemberType]
                kind.Status,
                metadata["name"],
                # The patch has the version that was read: an object that has changed since is processed again.
                {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": status},
                namespace=metadata["namespace"],
                patch_type=PatchType.MERGE,
            )
        except (httpx2.HTTPError, OSError) as error:
            if isinstance(error, httpx2.HTTPError) and status_code(error) in (
                HTTPStatus.NOT_FOUND,
                HTTPStatus.CONFLICT,
            ):
                return True
            reason = shorten(str(error).partition("\n")[0])
            if self._is_new(object_, reason):
                log.warning("status.write_failed", object=title, reason=reason)
            return False
        log.info("status.written", object=title)
        return True


def _pool_name(pool: Json) -> PoolName:
    metadata = pool["metadata"]
    return PoolName(str(pool["apiVersion"]).partition("/")[0], metadata["namespace"], metadata["name"])


def _title(object_: Json) -> str:
    return f"{object_['kind']} {object_name(object_)}"


def _uid(object_: Json) -> str:
    return str(object_["metadata"].get("uid", ""))


def _whole(object_: Json, _before: Json | None) -> Json:
    return object_


def _json(wire: StatusWire) -> Json:
    return wire.model_dump(mode="json", by_alias=True, exclude_none=True)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
