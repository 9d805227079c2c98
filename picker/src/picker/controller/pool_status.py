"""What a pool's status says. Pure: from the objects as they are to the status as it shall be.

Conditions and reasons are the inference extension's
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
from picker.resources.pool_wire import STRATEGY_ANNOTATION
from picker.resources.status_wire import MAX_MESSAGE, Condition
from picker.sources.informer import Json
from picker.xds.header_changes import rejected

MAX_PROBLEMS = 1024
"""Characters of a condition that lists problems: some ten of them."""

_SERVED_FILTERS = frozenset({"RequestHeaderModifier", "ResponseHeaderModifier"})

MAX_PARENTS = 32
"""Entries that a status has room for."""


@dataclass(frozen=True, slots=True)
class PickerReference:
    """The picker that a pool names, of whichever kind."""

    group: str
    kind: str
    service: ObjectName
    port: int


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """A condition but for its times."""

    type: Literal["Accepted", "ResolvedRefs", "RoutingStrategy", "PartiallyInvalid"]
    holds: bool
    reason: str
    message: str

    def condition(self, generation: int, now: str, before: Iterable[Mapping[str, object]]) -> Condition:
        """`before`: the conditions so far; the time of one that still says the same stays."""
        status: Literal["True", "False"] = "True" if self.holds else "False"
        since = next(
            (
                str(each["lastTransitionTime"])
                for each in before
                if each.get("type") == self.type and each.get("status") == status
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
    """HTTPRoutes by what statuses ask for, so that many pools with many routes cost their sum."""

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
        """The routes that lead to `pool`."""
        return self._of_pool.get(pool, ())

    def controllers_of(self, gateway: ObjectName) -> Set[str]:
        """The controllers that wrote the status of some route for `gateway`."""
        return self._controllers.get(gateway, frozenset())


def parents(pool: PoolName, routes: Iterable[HTTPRoute], controller: str) -> Mapping[ObjectName, bool]:
    """The Gateways of `controller` that some HTTPRoute leads from to the pool, and whether one such route is accepted
    there. In a stable order."""
    found: dict[ObjectName, bool] = {}
    for route in routes:
        if pool not in set(route.pools()):
            continue
        wanted = {route.gateway(parent) for parent in route.spec.parent_refs if parent.kind == "Gateway"}
        for parent in route.status.parents:
            gateway = route.gateway(parent.parent_ref)
            if parent.controller_name != controller or gateway not in wanted:
                continue
            accepted = not route.is_grpc and any(
                each.type == "Accepted" and each.status == "True" for each in parent.conditions
            )
            found[gateway] = found.get(gateway, False) or accepted
    return {gateway: found[gateway] for gateway in sorted(found)[:MAX_PARENTS]}


def pool_findings(
    pool: PoolName,
    picker: PickerReference | None,
    route_accepted: bool,
    services: Mapping[ObjectName, Service],
    annotations: Mapping[str, str],
    routes: Iterable[HTTPRoute],
) -> Sequence[ConditionResult]:
    """All that is found of a pool for one Gateway. `annotations`: the pool's. `routes`: those that lead to it."""
    found = [accepted(pool, picker, route_accepted), resolved(picker, services), strategy(annotations)]
    invalid = partially_invalid(pool, routes)
    return [*found, invalid] if invalid is not None else found


def accepted(pool: PoolName, picker: PickerReference | None, route_accepted: bool) -> ConditionResult:
    """Whether a Gateway takes the pool."""
    if picker is None:
        reason = "EndpointPickerRefMissing" if pool.group == POOL_GROUP_V1 else "NotSupportedByGateway"
        return ConditionResult("Accepted", False, reason, "The pool names no endpoint picker; this gateway needs one.")
    if not route_accepted:
        reason = "HTTPRouteNotAccepted" if pool.group == POOL_GROUP_V1 else "NotSupportedByGateway"
        return ConditionResult(
            "Accepted", False, reason, "No HTTPRoute that refers to the pool is accepted by the Gateway."
        )
    return ConditionResult("Accepted", True, "Accepted", "An HTTPRoute of the Gateway refers to the pool.")


def resolved(picker: PickerReference | None, services: Mapping[ObjectName, Service]) -> ConditionResult:
    """Whether what the pool refers to is there."""
    problem = _problem(picker, services) if picker is not None else None
    if problem is not None:
        return ConditionResult("ResolvedRefs", False, "InvalidExtensionRef", problem)
    return ConditionResult("ResolvedRefs", True, "ResolvedRefs", "All references of the pool are resolved.")


def strategy(annotations: Mapping[str, str]) -> ConditionResult:
    """Which routing strategy the pool's annotation names, as the condition's reason."""
    named = annotations.get(STRATEGY_ANNOTATION)
    if named is None:
        return ConditionResult("RoutingStrategy", True, RoutingStrategy.DEFAULT.value, "The pool names no strategy.")
    if named in set(RoutingStrategy):
        return ConditionResult("RoutingStrategy", True, named, "The pool's annotation names the strategy.")
    allowed = ", ".join(RoutingStrategy)
    message = (
        f"The annotation {STRATEGY_ANNOTATION} is {shorten(named)!r}; allowed: {allowed}. "
        f"Pickers keep the last strategy that they read, or {RoutingStrategy.DEFAULT} if there is none."
    )
    return ConditionResult("RoutingStrategy", False, "UnknownStrategy", message)


def partially_invalid(pool: PoolName, routes: Iterable[HTTPRoute]) -> ConditionResult | None:
    """What `routes`, those to the pool, ask for that the gateway does not do; None where it does everything.

    The condition's name and reason are those of the Gateway API's routes."""
    problems = [problem for route in routes for problem in _unserved(pool, route)]
    if not problems:
        return None
    return ConditionResult("PartiallyInvalid", True, "UnsupportedValue", shorten(" ".join(problems), MAX_PROBLEMS))


def _unserved(pool: PoolName, route: HTTPRoute) -> Iterator[str]:
    """Sentences on one route to the pool."""
    namespace = route.metadata.namespace
    if route.is_grpc:
        yield f"{route.title}: GRPCRoutes to pools are not served."
        return
    for index, rule in enumerate(route.spec.rules):
        if any(backend.pool(namespace) == pool for backend in rule.mirrors()):
            yield f"{route.title} rule {index}: requests are not mirrored to pools, and the rule answers 500."
        leading = [backend for backend in rule.backend_refs if backend.pool(namespace) == pool]
        for backend in leading:
            if ignored := sorted({each.type for each in backend.filters} - _SERVED_FILTERS):
                yield f"{route.title} rule {index}: filters of the backendRef are ignored: {', '.join(ignored)}."
            changes = (*backend.request_changes, *backend.response_changes)
            if names := [name for each in changes for name in rejected(each)]:
                yield f"{route.title} rule {index}: headers that Envoy does not change: {', '.join(names)}."
        expressions = (each for match in rule.matches for each in match.expressions()) if leading else ()
        for each in expressions:
            if problem := expression_problem(each):
                place = f"{route.title} rule {index}"
                yield f"{place}: {shorten(each, 80)!r} is no expression of RE2 ({shorten(problem, 80)})."


def _problem(picker: PickerReference, services: Mapping[ObjectName, Service]) -> str | None:
    if (picker.group, picker.kind) != ("", "Service"):
        kind = f"{picker.kind} of group {picker.group}" if picker.group else picker.kind
        return f"The endpoint picker is a {kind}; allowed is a Service."
    service = services.get(picker.service)
    if service is None:
        return f"There is no Service {picker.service}."
    if service.spec.type == "ExternalName":
        return f"Service {picker.service} is an ExternalName; a picker's address must be inside the cluster."
    ports = [each.port for each in service.spec.ports]
    if picker.port not in ports:
        return f"Service {picker.service} has no port {picker.port}; it has {', '.join(map(str, ports))}."
    return None


def same_but_for_times(one: Sequence[Mapping[str, object]], other: Sequence[Mapping[str, object]]) -> bool:
    """Whether two lists of conditions say the same."""

    def said(conditions: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
        kept = [{key: value for key, value in each.items() if key != "lastTransitionTime"} for each in conditions]
        return sorted(kept, key=lambda each: str(each.get("type")))

    return said(one) == said(other)


def conditions_of(gateway: ObjectName, entries: Sequence[Json]) -> Sequence[Json]:
    """What the status says of the pool at `gateway` so far."""
    for entry in entries:
        reference = entry["parentRef"]
        if (reference.get("namespace"), reference.get("name")) == (gateway.namespace, gateway.name):
            return entry.get("conditions") or []
    return ()


def same_entries(before: Sequence[Json], after: Sequence[Json]) -> bool:
    """Whether two lists of a status's parents say the same."""
    return len(before) == len(after) and all(
        {**one, "conditions": None} == {**other, "conditions": None}
        and same_but_for_times(one.get("conditions") or [], other.get("conditions") or [])
        for one, other in zip(before, after, strict=True)
    )
