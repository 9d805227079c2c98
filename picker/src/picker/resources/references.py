"""Checks the references between objects. On Kubernetes they are conditions in a status. Here they are warnings."""

import difflib
from collections.abc import Container, Iterator, Mapping, Sequence

from picker.resources.envoy_gateway import BackendTrafficPolicy
from picker.resources.gateway_api import GROUP, BackendRef, HTTPRoute, ParentRef
from picker.resources.inference import InferenceModel, InferenceModelRewrite, InferenceObjective
from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2, ObjectName, PoolName
from picker.resources.objects import Resources
from picker.resources.parse import Parsed
from picker.resources.problems import Problem

_RuleRef = tuple[ObjectName, int]
"""An InferenceModelRewrite and the index of one of its rules."""

MAX_COMPARED = 100
"""Limit on the names compared to suggest a correction. Judgement: more would cost seconds in total."""


def reference_warnings(parsed: Sequence[Parsed]) -> list[Problem]:
    """Warnings for fields without effect, for references to missing objects, and for duplicates."""
    resources = Resources.of(item.object for item in parsed)
    known = _Known(resources)
    warnings: list[Problem] = []
    seen: dict[str, Parsed] = {}
    for item in parsed:
        key = f"{type(item.object).__name__} {item.object.name}"
        if key in seen:
            message = f"duplicate of {seen[key].file}:{seen[key].line}; this one is used"
            warnings.append(Problem(item.file, item.line, item.title, None, message))
        seen[key] = item
        warnings += item.warnings
        warnings += (
            Problem(item.file, item.line, item.title, field, message) for field, message in _dangling(item, known)
        )
    return warnings


class _Known:
    """The objects by the names in references. Indexed, so the cost is linear in the number of objects."""

    def __init__(self, resources: Resources) -> None:
        self.pools = resources.pools
        self.gateways = {gateway.name: gateway for gateway in resources.gateways}
        self.http_routes = {route.name for route in resources.http_routes}
        self.services = {service.name: service for service in resources.services}
        self._resources = resources
        self._models: dict[PoolName, Mapping[str, InferenceModel]] = {}
        self._rules: dict[PoolName, Mapping[str | None, _RuleRef]] = {}

    def models_of(self, pool: PoolName) -> Mapping[str, InferenceModel]:
        if pool not in self._models:
            self._models[pool] = self._resources.models_of(pool)
        return self._models[pool]

    def rules_of(self, pool: PoolName) -> Mapping[str | None, _RuleRef]:
        """The object and the rule that are used for a model. The key None is for all models that no rule lists."""
        if pool not in self._rules:
            first: dict[str | None, _RuleRef] = {}
            for rewrite in self._resources.rewrites_in_order(pool):
                for index, rule in enumerate(rewrite.rules):
                    for model in rule.models or (None,):
                        first.setdefault(model, (rewrite.name, index))
            self._rules[pool] = first
        return self._rules[pool]


def _dangling(parsed: Parsed, known: _Known) -> Iterator[tuple[str, str]]:
    match parsed.object:
        case InferenceModel() as model:
            yield from _model_warnings(model, known)
        case InferenceObjective() as objective:
            if objective.pool not in known.pools:
                yield "spec.poolRef", _no_pool(objective.pool, known)
        case InferenceModelRewrite() as rewrite:
            yield from _rewrite_warnings(rewrite, known)
        case BackendTrafficPolicy() as policy:
            yield from _policy_warnings(policy, known)
        case HTTPRoute() as route:
            yield from _route_warnings(route, known)
        case _:
            return


def _model_warnings(model: InferenceModel, known: _Known) -> Iterator[tuple[str, str]]:
    if model.pool not in known.pools:
        yield "spec.poolRef", _no_pool(model.pool, known)
    winner = known.models_of(model.pool).get(model.model_name)
    if winner is not None and winner.name != model.name:
        yield "spec.modelName", f"{model.model_name!r} is already declared by {winner.name}, which is older and is used"


def _rewrite_warnings(rewrite: InferenceModelRewrite, known: _Known) -> Iterator[tuple[str, str]]:
    if rewrite.pool not in known.pools:
        yield "spec.poolRef", _no_pool(rewrite.pool, known)
    used = known.rules_of(rewrite.pool)
    own: set[str | None] = set()
    for index, rule in enumerate(rewrite.rules):
        for model in rule.models or (None,):
            name, first = used[model]
            if model in own or (name, first) != (rewrite.name, index):
                what = repr(model) if model is not None else "all other models"
                yield f"spec.rules[{index}]", f"never used for {what}: spec.rules[{first}] of {name} takes precedence"
            own.add(model)


def _policy_warnings(policy: BackendTrafficPolicy, known: _Known) -> Iterator[tuple[str, str]]:
    targets: Mapping[str, Container[ObjectName]] = {"Gateway": known.gateways, "HTTPRoute": known.http_routes}
    for target in policy.spec.targets:
        name = ObjectName(policy.metadata.namespace, target.name)
        if target.kind not in targets:
            yield "spec.targetRefs", f"has no effect on {target.kind} {name}: the gateway on one machine serves none"
        elif name not in targets[target.kind]:
            yield "spec.targetRefs", f"there is no {target.kind} {name}"


def _route_warnings(route: HTTPRoute, known: _Known) -> Iterator[tuple[str, str]]:
    for index, parent in enumerate(route.spec.parent_refs):
        if message := _parent_missing(route, parent, known):
            yield f"spec.parentRefs[{index}]", message
    for rule_index, rule in enumerate(route.spec.rules):
        for index, backend in enumerate(rule.backend_refs):
            if message := _backend_missing(route, backend, known):
                yield f"spec.rules[{rule_index}].backendRefs[{index}]", message


def _parent_missing(route: HTTPRoute, parent: ParentRef, known: _Known) -> str | None:
    if parent.group != GROUP:
        return None
    name = route.parent(parent)
    gateway = known.gateways.get(name)
    if gateway is None:
        return f"there is no Gateway {name}"
    listeners = [listener.name for listener in gateway.spec.listeners]
    if parent.section_name is not None and parent.section_name not in listeners:
        return f"Gateway {name} has no listener {parent.section_name!r}; it has {', '.join(listeners)}"
    return None


def _backend_missing(route: HTTPRoute, backend: BackendRef, known: _Known) -> str | None:
    namespace = backend.namespace or route.metadata.namespace
    if backend.kind == "InferencePool":
        pool = PoolName(backend.group, namespace, backend.name)
        return None if pool in known.pools else _no_pool(pool, known)
    name = ObjectName(namespace, backend.name)
    service = known.services.get(name)
    if service is None:
        return f"there is no Service {name}"
    ports = [port.port for port in service.spec.ports]
    if backend.port is None:
        return f"port is missing; Service {name} has {', '.join(map(str, ports))}"
    if backend.port not in ports:
        return f"Service {name} has no port {backend.port}; it has {', '.join(map(str, ports))}"
    return None


def _no_pool(pool: PoolName, known: _Known) -> str:
    """The message for a missing pool, with a hint for common mistakes: the other API version's group, or no group."""
    message = f"there is no InferencePool {pool.namespace}/{pool.name} in the group {pool.group or '(none)'}"
    for group in (POOL_GROUP_V1, POOL_GROUP_V1ALPHA2):
        if PoolName(group, pool.namespace, pool.name) in known.pools:
            return f"{message}; there is one in {group}: set group to it"
    if len(known.pools) > MAX_COMPARED:
        return message
    near = difflib.get_close_matches(pool.name, [name.name for name in known.pools], n=1)
    return f"{message}; did you mean {near[0]}?" if near else message
