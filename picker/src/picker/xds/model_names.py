"""The names of models that the routes of a host serve, and the base models of adapters.

A host is a virtual host of Envoy. The routes are Envoy's, so that they are the same for Envoy Gateway's translation and
for that of `picker standalone`."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256

from envoy.config.route.v3 import route_components_pb2

from picker.protocol import BASE_MODEL_NAME, MODEL_NAME
from picker.resources.expressions import matches_whole
from picker.resources.inference import ModelAdapters
from picker.resources.names import PoolName
from picker.resources.objects import Resources
from picker.xds.clusters import pool_of_cluster

Route = route_components_pb2.Route
HeaderMatcher = route_components_pb2.HeaderMatcher

MAX_NAMES = 10_000
"""Limit on the names of one host. Judgement: far more than one address serves."""

UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)
"""The creation time of a model that no object with a time declares."""

_ROUTE_NAME = re.compile(r"httproute/([^/]+)/")


@dataclass(frozen=True, slots=True)
class DeclaredModels:
    """The names that InferenceModels, InferenceModelRewrites and ConfigMaps of adapters declare."""

    of_pools: Mapping[PoolName, Mapping[str, datetime]] = field(default_factory=dict[PoolName, Mapping[str, datetime]])
    """Names by pool, with their creation time."""
    adapters: Mapping[str, Sequence[ModelAdapters]] = field(default_factory=dict[str, Sequence[ModelAdapters]])
    """By namespace, the oldest first."""

    @classmethod
    def of(cls, resources: Resources) -> "DeclaredModels":
        of_pools: defaultdict[PoolName, dict[str, datetime]] = defaultdict(dict)
        for model in resources.models:
            of_pools[model.pool].setdefault(model.model_name, model.created or UNKNOWN_TIME)
        for rewrite in resources.rewrites:
            for rule in rewrite.rules:
                for name in rule.models:
                    of_pools[rewrite.pool].setdefault(name, rewrite.created or UNKNOWN_TIME)
        adapters: defaultdict[str, list[ModelAdapters]] = defaultdict(list)
        for item in sorted(resources.adapters, key=lambda item: (item.created or UNKNOWN_TIME, item.name)):
            adapters[item.name.namespace].append(item)
        return cls(dict(of_pools), dict(adapters))

    @property
    def digest(self) -> str:
        """A hash of all names, equal in all replicas of the extension."""
        names = sorted((str(pool), sorted(names)) for pool, names in self.of_pools.items())
        adapters = [
            (str(item.name), item.base_model, item.adapters) for items in self.adapters.values() for item in items
        ]
        return sha256(json.dumps([names, sorted(adapters)]).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class HostModels:
    """The models of a host."""

    names: Mapping[str, datetime]
    """Names that a route serves, with their creation time."""
    bases: Mapping[str, str]
    """Base models by adapter. A name that is missing is its own base model."""


def model_conditions(route: Route, header: str) -> list[HeaderMatcher]:
    """Returns the conditions of `route` on one of the two headers."""
    return [matcher for matcher in route.match.headers if matcher.name.lower() == header]


def matches_by_model(route: Route) -> bool:
    """Returns whether `route` matches on the requested model or on its base model."""
    return any(matcher.name.lower() in (MODEL_NAME, BASE_MODEL_NAME) for matcher in route.match.headers)


def host_models(routes: Sequence[Route], declared: DeclaredModels) -> HostModels:
    """Returns the models of the host that has `routes`, in their order of precedence.

    A name belongs to the first route that claims it. The objects of a namespace only map names to base models that its
    own routes match. So a tenant cannot move another tenant's model to its own pool."""
    bases, of_bases = _bases(routes, declared)
    names: dict[str, datetime] = {}
    for route in routes:
        by_name, by_base = model_conditions(route, MODEL_NAME), model_conditions(route, BASE_MODEL_NAME)
        candidates = dict.fromkeys(_exact_values(by_name), UNKNOWN_TIME)
        for base in list(_exact_values(by_base)) or (of_bases if by_base else ()):
            if _accept(by_base, base):
                candidates |= of_bases[base]
        candidates |= _declared(route, declared)
        for name, created in candidates.items():
            if (
                len(names) < MAX_NAMES
                and names.get(name, UNKNOWN_TIME) == UNKNOWN_TIME
                and _accept(by_name, name)
                and _accept(by_base, bases.get(name, name))
            ):
                names[name] = created
    return HostModels(names, bases)


def _bases(
    routes: Sequence[Route], declared: DeclaredModels
) -> tuple[Mapping[str, str], Mapping[str, Mapping[str, datetime]]]:
    """Returns the base models by adapter, and by base model the names that have it, with their creation times."""
    claims = list(_claims(routes, declared))
    of_bases: dict[str, dict[str, datetime]] = {base: {base: UNKNOWN_TIME} for base, _, _ in claims}
    bases: dict[str, str] = {}
    for base, name, created in claims:
        if name not in of_bases and name not in bases and len(bases) < MAX_NAMES:
            bases[name] = base
            of_bases[base][name] = created
    return bases, of_bases


def _claims(routes: Sequence[Route], declared: DeclaredModels) -> Iterator[tuple[str, str, datetime]]:
    """Yields a base model that a route matches, a name that has it, and the creation time of the name."""
    for route in routes:
        conditions = model_conditions(route, BASE_MODEL_NAME)
        if not conditions:
            continue
        for base in _exact_values(conditions):
            yield base, base, UNKNOWN_TIME
            for name, created in _declared(route, declared).items():
                yield base, name, created
        exact = set(_exact_values(conditions))
        named = _ROUTE_NAME.match(route.name)
        for item in declared.adapters.get(named[1], ()) if named is not None else ():
            if (not exact or item.base_model in exact) and _accept(conditions, item.base_model):
                created = item.created or UNKNOWN_TIME
                yield item.base_model, item.base_model, created
                yield from ((item.base_model, name, created) for name in item.adapters)


def _declared(route: Route, declared: DeclaredModels) -> Mapping[str, datetime]:
    """Returns the names that the objects of the route's pools declare."""
    clusters = [route.route.cluster, *(weighted.name for weighted in route.route.weighted_clusters.clusters)]
    pools = [pool for name in clusters if (pool := pool_of_cluster(name)) is not None]
    return {name: created for pool in pools for name, created in declared.of_pools.get(pool, {}).items()}


def _exact_values(conditions: Iterable[HeaderMatcher]) -> Iterator[str]:
    return (matcher.string_match.exact for matcher in conditions if matcher.string_match.exact)


def _accept(conditions: Iterable[HeaderMatcher], value: str) -> bool:
    return all(_accepts(matcher, value) for matcher in conditions)


def _accepts(matcher: HeaderMatcher, value: str) -> bool:
    """Returns whether a header with `value` matches. Of the kinds of matches those of the Gateway API are read."""
    text = matcher.string_match
    if matcher.invert_match:
        return False
    if text.HasField("exact"):
        return text.exact == value
    return text.HasField("safe_regex") and matches_whole(text.safe_regex.regex, value)
