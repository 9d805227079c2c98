"""Computes the status of a pool. Pure: from objects to the status that they should have.

Conditions and reasons are those of the inference extension
(https://gateway-api-inference-extension.sigs.k8s.io/reference/spec/#inferencepoolconditiontype)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from picker.bounded_text import shorten
from picker.controller.api_objects import HTTPRoute, Service
from picker.resources.expressions import expression_problem
from picker.resources.inference import RoutingStrategy
from picker.resources.names import POOL_GROUP_V1, ObjectName, PoolName
from picker.resources.pool_annotations import (
    EXPORT_ANNOTATION,
    PREFIX,
    STRATEGY_ANNOTATION,
    STRATEGY_CONDITION,
    invalid_settings,
    unknown_annotations,
)
from picker.resources.status_wire import MAX_MESSAGE, Condition
from picker.sources.informer import Json
from picker.xds.header_changes import rejected_headers

MAX_PROBLEMS = 1024
"""Maximum characters of a condition that lists problems: about ten of them."""

_SUPPORTED_FILTERS = frozenset({"RequestHeaderModifier", "ResponseHeaderModifier"})

MAX_PARENTS = 32
"""Maximum number of entries of a status."""


@dataclass(frozen=True, slots=True)
class PickerReference:
    """The picker that a pool names, of any kind."""

    group: str
    kind: str
    service: ObjectName
    port: int


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """A condition without its times."""

    type: Literal["Accepted", "ResolvedRefs", "RoutingStrategy", "Settings", "PartiallyInvalid", "Exported"]
    holds: bool
    reason: str
    message: str

    def condition(self, generation: int, now: str, previous_conditions: Iterable[Mapping[str, object]]) -> Condition:
        """Returns the condition. `previous_conditions`: the current ones; an unchanged condition keeps its time."""
        status: Literal["True", "False"] = "True" if self.holds else "False"
        since = next(
            (
                str(previous["lastTransitionTime"])
                for previous in previous_conditions
                if previous.get("type") == self.type and previous.get("status") == status
            ),
            now,
        )
        return Condition(
            type=self.type,
            status=status,
            reason=self.reason,
            message=shorten(self.message, MAX_MESSAGE),
            observed_generation=generation,
            last_transition_time=since,
        )


@dataclass(frozen=True, slots=True)
class RouteIndex:
    """HTTPRoutes indexed by pool and by Gateway, so that the cost is the sum of pools and routes."""

    _of_pool: Mapping[PoolName, Sequence[HTTPRoute]]
    _controllers: Mapping[ObjectName, Set[str]]

    @classmethod
    def of(cls, routes: Iterable[HTTPRoute]) -> "RouteIndex":
        of_pool: defaultdict[PoolName, list[HTTPRoute]] = defaultdict(list)
        controllers: defaultdict[ObjectName, set[str]] = defaultdict(set)
        for route in routes:
            for pool in set(route.pools()):
                of_pool[pool].append(route)
            for parent in route.status.parents:
                controllers[route.gateway(parent.parent_ref)].add(parent.controller_name)
        return cls(of_pool, controllers)

    def of_pool(self, pool: PoolName) -> Sequence[HTTPRoute]:
        """Returns the routes to `pool`."""
        return self._of_pool.get(pool, ())

    def controllers_of(self, gateway: ObjectName) -> Set[str]:
        """Returns the controllers that wrote the status of any route for `gateway`."""
        return self._controllers.get(gateway, frozenset())


def parents(pool: PoolName, routes: Iterable[HTTPRoute], controller: str) -> Mapping[ObjectName, bool]:
    """Returns the Gateways of `controller` with an HTTPRoute to the pool, and whether such a route is accepted. The
    order is stable."""
    result: dict[ObjectName, bool] = {}
    for route in routes:
        if pool not in set(route.pools()):
            continue
        referenced = {route.gateway(parent) for parent in route.spec.parent_refs if parent.kind == "Gateway"}
        for parent in route.status.parents:
            gateway = route.gateway(parent.parent_ref)
            if parent.controller_name != controller or gateway not in referenced:
                continue
            accepted = not route.is_grpc and any(
                condition.type == "Accepted" and condition.status == "True" for condition in parent.conditions
            )
            result[gateway] = result.get(gateway, False) or accepted
    return {gateway: result[gateway] for gateway in sorted(result)[:MAX_PARENTS]}


def pool_conditions(
    pool: PoolName,
    picker: PickerReference | None,
    route_accepted: bool,
    services: Mapping[ObjectName, Service],
    annotations: Mapping[str, str],
    strategy_before: RoutingStrategy,
    routes: Iterable[HTTPRoute],
) -> Sequence[ConditionResult]:
    """Returns all conditions of a pool for one Gateway. `annotations`: the pool's. `strategy_before`: the strategy that
    its status records. `routes`: those to the pool."""
    conditions = [
        accepted(pool, picker, route_accepted),
        resolved(picker, services),
        strategy(annotations, strategy_before),
        settings(annotations),
        partially_invalid(pool, routes),
        exported(pool, annotations),
    ]
    return [condition for condition in conditions if condition is not None]


def accepted(pool: PoolName, picker: PickerReference | None, route_accepted: bool) -> ConditionResult:
    """Returns whether a Gateway accepts the pool."""
    if picker is None:
        reason = "EndpointPickerRefMissing" if pool.group == POOL_GROUP_V1 else "NotSupportedByGateway"
        return ConditionResult(
            "Accepted", False, reason, "The pool has no endpointPickerRef, which this gateway requires."
        )
    if not route_accepted:
        reason = "HTTPRouteNotAccepted" if pool.group == POOL_GROUP_V1 else "NotSupportedByGateway"
        return ConditionResult(
            "Accepted", False, reason, "No HTTPRoute that refers to the pool is accepted by the Gateway."
        )
    return ConditionResult("Accepted", True, "Accepted", "An HTTPRoute of the Gateway refers to the pool.")


def resolved(picker: PickerReference | None, services: Mapping[ObjectName, Service]) -> ConditionResult:
    """Returns whether the pool's references exist."""
    problem = _problem(picker, services) if picker is not None else None
    if problem is not None:
        return ConditionResult("ResolvedRefs", False, "InvalidExtensionRef", problem)
    return ConditionResult("ResolvedRefs", True, "ResolvedRefs", "All references of the pool are resolved.")


def strategy(annotations: Mapping[str, str], before: RoutingStrategy) -> ConditionResult:
    """Returns the routing strategy in force, as the condition's reason: that of the pool's annotation, or `before` if
    the annotation is invalid."""
    named = annotations.get(STRATEGY_ANNOTATION)
    if named is None:
        return ConditionResult(
            STRATEGY_CONDITION, True, RoutingStrategy.DEFAULT.value, "The pool has no strategy annotation."
        )
    if named in set(RoutingStrategy):
        return ConditionResult(STRATEGY_CONDITION, True, named, "The strategy is that of the pool's annotation.")
    message = (
        f"The annotation {STRATEGY_ANNOTATION} is {shorten(named)!r}; allowed: {', '.join(RoutingStrategy)}. "
        f"The last valid strategy remains in force: {before}."
    )
    return ConditionResult(STRATEGY_CONDITION, False, before.value, message)


def settings(annotations: Mapping[str, str]) -> ConditionResult | None:
    """Returns whether the pool's other annotations are valid; None for a pool without any."""
    others = (STRATEGY_ANNOTATION, EXPORT_ANNOTATION)
    own = {name: value for name, value in annotations.items() if name.startswith(PREFIX) and name not in others}
    if not own:
        return None
    unsupported, unknown = invalid_settings(own), list(unknown_annotations(own))
    if not unsupported and not unknown:
        listed = ", ".join(f"{name.removeprefix(PREFIX)}={shorten(value)}" for name, value in sorted(own.items()))
        return ConditionResult("Settings", True, "Valid", listed)
    reason = "UnsupportedValue" if unsupported else "UnknownSetting"
    problems = [f"{problem}." for problem in (*unsupported, *unknown)]
    if unsupported:
        problems.append("Pickers keep the last valid value, or their own setting if there is none.")
    return ConditionResult("Settings", False, reason, shorten(" ".join(problems), MAX_PROBLEMS))


def partially_invalid(pool: PoolName, routes: Iterable[HTTPRoute]) -> ConditionResult | None:
    """Returns the features of `routes`, those to the pool, that are not supported; None if all are.

    The condition's name and reason are those of the Gateway API's routes."""
    problems = [problem for route in routes for problem in _unsupported(pool, route)]
    if not problems:
        return None
    return ConditionResult("PartiallyInvalid", True, "UnsupportedValue", shorten(" ".join(problems), MAX_PROBLEMS))


def exported(pool: PoolName, annotations: Mapping[str, str]) -> ConditionResult | None:
    """Returns that an export is not supported; None if none is requested. v1alpha2 has no such condition."""
    if pool.group != POOL_GROUP_V1 or EXPORT_ANNOTATION not in annotations:
        return None
    message = f"The annotation {EXPORT_ANNOTATION} has no effect: this gateway does not export pools to other clusters."
    return ConditionResult("Exported", False, "NotSupported", message)


def _unsupported(pool: PoolName, route: HTTPRoute) -> Iterator[str]:
    """Yields a message for each unsupported feature of one route to the pool."""
    namespace = route.metadata.namespace
    if route.is_grpc:
        yield f"{route.title}: GRPCRoutes to pools are not supported."
        return
    for index, rule in enumerate(route.spec.rules):
        if any(backend.pool(namespace) == pool for backend in rule.mirrors()):
            yield f"{route.title} rule {index}: mirroring to pools is not supported, and the rule responds with 500."
        to_pool = [backend for backend in rule.backend_refs if backend.pool(namespace) == pool]
        for backend in to_pool:
            if ignored := sorted({route_filter.type for route_filter in backend.filters} - _SUPPORTED_FILTERS):
                yield f"{route.title} rule {index}: filters of the backendRef are ignored: {', '.join(ignored)}."
            changes = (*backend.request_changes, *backend.response_changes)
            if names := [name for change in changes for name in rejected_headers(change)]:
                yield f"{route.title} rule {index}: header changes that Envoy rejects: {', '.join(names)}."
        expressions = (text for match in rule.matches for text in match.expressions()) if to_pool else ()
        for expression in expressions:
            if problem := expression_problem(expression):
                place = f"{route.title} rule {index}"
                yield f"{place}: {shorten(expression, 80)!r} is not a valid RE2 expression ({shorten(problem, 80)})."


def _problem(picker: PickerReference, services: Mapping[ObjectName, Service]) -> str | None:
    if (picker.group, picker.kind) != ("", "Service"):
        kind = f"{picker.kind} of group {picker.group}" if picker.group else picker.kind
        return f"The endpoint picker is a {kind}; only a Service is allowed."
    service = services.get(picker.service)
    if service is None:
        return f"Service {picker.service} does not exist."
    if service.spec.type == "ExternalName":
        return f"Service {picker.service} is an ExternalName; a picker's address must be inside the cluster."
    ports = [port.port for port in service.spec.ports]
    if picker.port not in ports:
        return f"Service {picker.service} has no port {picker.port}; it has {', '.join(map(str, ports))}."
    return None


def same_but_for_times(one: Sequence[Mapping[str, object]], other: Sequence[Mapping[str, object]]) -> bool:
    """Returns whether two lists of conditions are equal except for their times."""

    def normalized(conditions: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
        without_times = [
            {key: value for key, value in condition.items() if key != "lastTransitionTime"} for condition in conditions
        ]
        return sorted(without_times, key=lambda condition: str(condition.get("type")))

    return normalized(one) == normalized(other)


def conditions_of(gateway: ObjectName, entries: Sequence[Json]) -> Sequence[Json]:
    """Returns the current conditions of the pool for `gateway`."""
    for entry in entries:
        reference = entry["parentRef"]
        if (reference.get("namespace"), reference.get("name")) == (gateway.namespace, gateway.name):
            return entry.get("conditions") or []
    return ()


def same_entries(before: Sequence[Json], after: Sequence[Json]) -> bool:
    """Returns whether two lists of a status's parents are equal except for their times."""
    return len(before) == len(after) and all(
        {**one, "conditions": None} == {**other, "conditions": None}
        and same_but_for_times(one.get("conditions") or [], other.get("conditions") or [])
        for one, other in zip(before, after, strict=True)
    )
