"""Writes the statuses of pools, and of what is said about models."""

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
    model_findings,
    no_claims,
    objective_findings,
    rewrite_claims,
    rewrite_findings,
)
from picker.controller.pool_status import (
    ConditionResult,
    PickerReference,
    RouteIndex,
    conditions_of,
    parents,
    pool_findings,
    same_but_for_times,
    same_entries,
)
from picker.resources.gateway_api import GROUP
from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2, ROUTER_GROUP, ObjectName, PoolName
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
_Findings = Callable[[Json, Claims, Collection[PoolName]], Sequence[ConditionResult]]
"""What is found of an object, by the names that others of its kind own and the pools that exist."""
_ClaimsOf = Callable[[Iterable[Json]], Claims]

ABOUT_MODELS: Sequence[tuple[Resource, _ClaimsOf, _Findings]] = (
    (resource(POOL_GROUP_V1ALPHA2, "v1alpha2", "InferenceModel"), model_claims, model_findings),
    *(
        (resource(group, "v1alpha2", kind), claims, findings)
        for kind, claims, findings in (
            ("InferenceObjective", no_claims, objective_findings),
            ("InferenceModelRewrite", rewrite_claims, rewrite_findings),
        )
        for group in (POOL_GROUP_V1ALPHA2, ROUTER_GROUP)
    ),
)

SETTLE_S = 0.05
RETRY_BASE_S, RETRY_MAX_S = 2.0, 60.0
"""After a status that could not be written. Judgement: a restarted API server is back within a minute."""

GRPC_ROUTES_S = 10.0
"""To list GRPCRoutes at the start. A ClusterRole without them must not hold up all statuses. Judgement."""

log = structlog.get_logger(__name__)


class StatusWriter:
    """Keeps the statuses in step with pools, HTTPRoutes and Services. Runs in one replica at a time."""

    def __init__(self, client: AsyncClient, controller: str, where: Callable[[ObjectName], ObjectName]) -> None:
        """`controller`: the `controllerName` of the GatewayClasses that are ours. `where`: the Service that is meant by
        the one that a pool names."""
        self._client = client
        self._controller = controller
        self._where = where
        self._events = EventRecorder(client)
        self._problems: dict[str, str] = {}
        """Why the status of an object could not be written, by the object's uid."""

    async def run(self) -> None:
        """Until cancelled. Raises nothing: what fails of one object is logged once, counted, and tried again."""
        changed = asyncio.Event()
        routes = Informer(self._client, HTTP_ROUTE, read_pool_route)
        grpc_routes = Informer(self._client, GRPC_ROUTE, read_grpc_route)
        services = Informer(self._client, SERVICE, read_service)
        pools = [Informer(self._client, kind, _whole) for kind in (POOL_V1, POOL_V1ALPHA2)]
        others = [Informer(self._client, kind, _whole) for kind, _, _ in ABOUT_MODELS]
        backoff = Backoff(RETRY_BASE_S, RETRY_MAX_S)
        async with asyncio.TaskGroup() as tasks:
            for copy in (routes, grpc_routes, services, *pools, *others):
                tasks.create_task(copy.follow(changed.set))
            for copy in (routes, services, *pools, *others):
                await copy.listed.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(GRPC_ROUTES_S):
                    await grpc_routes.listed.wait()
            while True:
                changed.clear()
                index = RouteIndex.of((*routes.objects.values(), *grpc_routes.objects.values()))
                written = await self._write_pools(pools, index, services.objects)
                names = {_pool_name(each) for copy in pools for each in copy.objects.values()}
                if await self._write_about_models(others, names) and written:
                    backoff.reset()
                else:
                    asyncio.get_running_loop().call_later(backoff.next_s(), changed.set)
                self._forget_all_but(each for copy in (*pools, *others) for each in copy.objects.values())
                await changed.wait()
                await asyncio.sleep(SETTLE_S)

    async def _write_pools(
        self, pools: Sequence[Informer[Json]], routes: RouteIndex, services: Mapping[ObjectName, Service]
    ) -> bool:
        """Write what differs; whether all could be written."""

        async def write(kind: Resource, pool: Json) -> bool:
            await self._events.record_problems(pool)
            status = self._status(pool, routes, services)
            return status is None or await self._write(kind, pool, status)

        written = True
        for kind, copy in zip((POOL_V1, POOL_V1ALPHA2), pools, strict=True):
            for pool in list(copy.objects.values()):
                written = await self._alone(pool, partial(write, kind, pool)) and written
        return written

    async def _write_about_models(self, copies: Sequence[Informer[Json]], pools: Collection[PoolName]) -> bool:
        async def write(kind: Resource, object_: Json, findings: _Findings, claims: Claims) -> bool:
            await self._events.record_problems(object_)
            before = cast(list[Json], cast(Json, object_.get("status") or {}).get("conditions") or [])
            generation = object_["metadata"].get("generation", 0)
            found = findings(object_, claims, pools)
            conditions = [_json(finding.condition(generation, _now(), before)) for finding in found]
            return same_but_for_times(before, conditions) or await self._write(
                kind, object_, {"conditions": conditions}
            )

        written = True
        for (kind, claims_of, findings), copy in zip(ABOUT_MODELS, copies, strict=True):
            objects = list(copy.objects.values())
            claims = claims_of(objects)
            for each in objects:
                written = await self._alone(each, partial(write, kind, each, findings, claims)) and written
        return written

    async def _alone(self, object_: Json, write: Callable[[], Awaitable[bool]]) -> bool:
        """Whether `write` has written the status of one object, whose failure is its own."""
        # Between two objects the loop is free for Envoy's questions.
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
        """Whether `problem` is another than the last one of the object."""
        uid = _uid(object_)
        if self._problems.get(uid) == problem:
            return False
        self._problems[uid] = problem
        return True

    def _forget_all_but(self, objects: Iterable[Json]) -> None:
        uids = {_uid(each) for each in objects}
        self._events.keep_only(uids)
        self._problems = {uid: problem for uid, problem in self._problems.items() if uid in uids}

    def _status(self, pool: Json, routes: RouteIndex, services: Mapping[ObjectName, Service]) -> dict[str, Any] | None:
        """The status that `pool` shall have; None where it has it."""
        metadata, name = pool["metadata"], _pool_name(pool)
        is_v1 = name.group == POOL_GROUP_V1
        field = "parents" if is_v1 else "parent"
        before = cast(list[Json], cast(Json, pool.get("status") or {}).get(field) or [])
        ours = parents(name, routes.of_pool(name), self._controller)
        theirs = [each for each in before if self._is_foreign(each, name, routes, is_v1)]
        picker = self._picker(pool, is_v1)
        annotations = cast(Mapping[str, str], metadata.get("annotations") or {})
        entries: list[Json] = list(theirs)
        for gateway, route_accepted in ours.items():
            findings = pool_findings(name, picker, route_accepted, services, annotations, routes.of_pool(name))
            said = conditions_of(gateway, before)
            conditions = tuple(finding.condition(metadata.get("generation", 0), _now(), said) for finding in findings)
            entries.append(_json(self._entry(gateway, conditions, is_v1)))
        return None if same_entries(before, entries) else {field: entries}

    def _is_foreign(self, entry: Json, pool: PoolName, routes: RouteIndex, is_v1: bool) -> bool:
        """Whether another controller answers for an entry of the status."""
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
        service = self._where(ObjectName(pool["metadata"]["namespace"], reference["name"]))
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
                # With the version that this was worked out from: what has changed since is looked at again.
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
