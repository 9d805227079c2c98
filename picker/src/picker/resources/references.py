"""Whether the objects fit together. On Kubernetes these are conditions in a status; here they are warnings."""

import difflib
from collections.abc import Iterator, Mapping, Sequence

from picker.resources.envoy_gateway import BackendTrafficPolicy
from picker.resources.gateway_api import GROUP, BackendRef, HTTPRoute, ParentRef
from picker.resources.inference import InferenceModel, InferenceModelRewrite, InferenceObjective
from picker.resources.names import ObjectName, PoolName
from picker.resources.objects import Resources
from picker.resources.parse import Parsed
from picker.resources.problems import Problem


def reference_warnings(parsed: Sequence[Parsed]) -> list[Problem]:
    """What has no effect, what refers to nothing, and what stands twice."""
    resources = Resources.of(each.object for each in parsed)
    warnings: list[Problem] = []
    seen: dict[str, Parsed] = {}
    for each in parsed:
        key = f"{type(each.object).__name__} {each.object.name}"
        if key in seen:
            message = f"stands in {seen[key].file}:{seen[key].line} too; this one is used"
            warnings.append(Problem(each.file, each.line, each.title, None, message))
        seen[key] = each
        warnings += each.warnings
        warnings += (
            Problem(each.file, each.line, each.title, field, message) for field, message in _dangling(each, resources)
        )
    return warnings


def _dangling(each: Parsed, resources: Resources) -> Iterator[tuple[str, str]]:
    match each.object:
        case InferenceModel() as model:
            yield from _model_warnings(model, resources)
        case InferenceObjective() as objective:
            if objective.pool not in resources.pools:
                yield "spec.poolRef", _no_pool(objective.pool, resources)
        case InferenceModelRewrite() as rewrite:
            yield from _rewrite_warnings(rewrite, resources)
        case BackendTrafficPolicy() as policy:
            yield from _policy_warnings(policy, resources)
        case HTTPRoute() as route:
            yield from _route_warnings(route, resources)
        case _:
            return


def _model_warnings(model: InferenceModel, resources: Resources) -> Iterator[tuple[str, str]]:
    if model.pool not in resources.pools:
        yield "spec.poolRef", _no_pool(model.pool, resources)
    winner = resources.models_of(model.pool).get(model.model_name)
    if winner is not None and winner.name != model.name:
        yield "spec.modelName", f"{model.model_name!r} is already declared by {winner.name}, which is older and stands"


def _rewrite_warnings(rewrite: InferenceModelRewrite, resources: Resources) -> Iterator[tuple[str, str]]:
    if rewrite.pool not in resources.pools:
        yield "spec.poolRef", _no_pool(rewrite.pool, resources)
    # By model, None for all others: the rule that is used.
    first: dict[str | None, str] = {}
    for each in resources.rewrites_in_order(rewrite.pool):
        for index, rule in enumerate(each.rules):
            place = f"spec.rules[{index}]"
            for model in rule.models or (None,):
                if model in first and each.name == rewrite.name:
                    what = repr(model) if model is not None else "all other models"
                    yield place, f"never used for {what}: {first[model]} goes first"
                first.setdefault(model, f"{place} of {each.name}")


def _policy_warnings(policy: BackendTrafficPolicy, resources: Resources) -> Iterator[tuple[str, str]]:
    known: Mapping[str, Sequence[ObjectName]] = {
        "Gateway": [each.name for each in resources.gateways],
        "HTTPRoute": [each.name for each in resources.http_routes],
    }
    for target in policy.spec.targets:
        name = ObjectName(policy.metadata.namespace, target.name)
        if target.kind not in known:
            yield "spec.targetRefs", f"has no effect on {target.kind} {name}: the gateway on one machine serves none"
        elif name not in known[target.kind]:
            yield "spec.targetRefs", f"there is no {target.kind} {name}"


def _route_warnings(route: HTTPRoute, resources: Resources) -> Iterator[tuple[str, str]]:
    for index, parent in enumerate(route.spec.parent_refs):
        if message := _parent_missing(route, parent, resources):
            yield f"spec.parentRefs[{index}]", message
    for rule_index, rule in enumerate(route.spec.rules):
        for index, backend in enumerate(rule.backend_refs):
            if message := _backend_missing(route, backend, resources):
                yield f"spec.rules[{rule_index}].backendRefs[{index}]", message


def _parent_missing(route: HTTPRoute, parent: ParentRef, resources: Resources) -> str | None:
    if parent.group != GROUP:
        return None
    name = route.parent(parent)
    gateway = next((each for each in resources.gateways if each.name == name), None)
    if gateway is None:
        return f"there is no Gateway {name}"
    listeners = [listener.name for listener in gateway.spec.listeners]
    if parent.section_name is not None and parent.section_name not in listeners:
        return f"Gateway {name} has no listener {parent.section_name!r}; it has {', '.join(listeners)}"
    return None


def _backend_missing(route: HTTPRoute, backend: BackendRef, resources: Resources) -> str | None:
    namespace = backend.namespace or route.metadata.namespace
    if backend.kind == "InferencePool":
        pool = PoolName(backend.group, namespace, backend.name)
        return None if pool in resources.pools else _no_pool(pool, resources)
    name = ObjectName(namespace, backend.name)
    service = next((each for each in resources.services if each.name == name), None)
    if service is None:
        return f"there is no Service {name}"
    ports = [port.port for port in service.spec.ports]
    if backend.port is None:
        return f"port is missing; Service {name} has {', '.join(map(str, ports))}"
    if backend.port not in ports:
        return f"Service {name} has no port {backend.port}; it has {', '.join(map(str, ports))}"
    return None


def _no_pool(pool: PoolName, resources: Resources) -> str:
    """The usual mistakes: the group of the other API version, or none."""
    message = f"there is no InferencePool {pool.namespace}/{pool.name} in the group {pool.group or '(none)'}"
    for other in resources.pools:
        if (other.namespace, other.name) == (pool.namespace, pool.name):
            return f"{message}; there is one in {other.group}: set group to it"
    near = difflib.get_close_matches(pool.name, [each.name for each in resources.pools], n=1)
    return f"{message}; did you mean {near[0]}?" if near else message
