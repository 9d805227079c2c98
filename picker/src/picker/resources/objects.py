"""All objects of users, at one moment."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from picker.resources.envoy_gateway import BackendTrafficPolicy
from picker.resources.gateway_api import Gateway, GatewayClass, HTTPRoute
from picker.resources.inference import (
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
    InferencePool,
    ModelAdapters,
    ModelRewrites,
    TargetModel,
)
from picker.resources.names import PoolName
from picker.resources.services import Service

AnyObject = (
    InferencePool
    | InferenceModel
    | InferenceObjective
    | InferenceModelRewrite
    | ModelAdapters
    | GatewayClass
    | Gateway
    | HTTPRoute
    | Service
    | BackendTrafficPolicy
)
_Aged = TypeVar("_Aged", InferenceModel, InferenceModelRewrite)
_OLDEST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Resources:
    """Typed objects by kind, each kind ordered by name."""

    pools: Mapping[PoolName, InferencePool] = field(default_factory=dict[PoolName, InferencePool])
    models: tuple[InferenceModel, ...] = ()
    objectives: tuple[InferenceObjective, ...] = ()
    rewrites: tuple[InferenceModelRewrite, ...] = ()
    adapters: tuple[ModelAdapters, ...] = ()
    gateway_classes: tuple[GatewayClass, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    http_routes: tuple[HTTPRoute, ...] = ()
    services: tuple[Service, ...] = ()
    traffic_policies: tuple[BackendTrafficPolicy, ...] = ()

    @classmethod
    def of(cls, objects: Iterable[AnyObject]) -> "Resources":
        """Sort `objects` by kind and name. Of two with the same name the later one is used."""
        by_name = {(type(item).__name__, str(item.name)): item for item in objects}
        ordered = [by_name[key] for key in sorted(by_name)]
        return cls(
            pools={item.name: item for item in ordered if isinstance(item, InferencePool)},
            models=tuple(item for item in ordered if isinstance(item, InferenceModel)),
            objectives=tuple(item for item in ordered if isinstance(item, InferenceObjective)),
            rewrites=tuple(item for item in ordered if isinstance(item, InferenceModelRewrite)),
            adapters=tuple(item for item in ordered if isinstance(item, ModelAdapters)),
            gateway_classes=tuple(item for item in ordered if isinstance(item, GatewayClass)),
            gateways=tuple(item for item in ordered if isinstance(item, Gateway)),
            http_routes=tuple(item for item in ordered if isinstance(item, HTTPRoute)),
            services=tuple(item for item in ordered if isinstance(item, Service)),
            traffic_policies=tuple(item for item in ordered if isinstance(item, BackendTrafficPolicy)),
        )

    def models_of(self, pool: PoolName) -> Mapping[str, InferenceModel]:
        """The models of a pool by the name that clients use. Of two objects for one name the older one is used, as in
        the inference extension."""
        oldest_last = reversed(_oldest_first([model for model in self.models if model.pool == pool]))
        return {model.model_name: model for model in oldest_last}

    def objectives_of(self, pool: PoolName) -> Mapping[str, InferenceObjective]:
        """The objectives of a pool by the name that requests give."""
        return {objective.name.name: objective for objective in self.objectives if objective.pool == pool}

    def rewrites_in_order(self, pool: PoolName) -> Sequence[InferenceModelRewrite]:
        """The rewrite objects of a pool in order of precedence."""
        return _oldest_first([rewrite for rewrite in self.rewrites if rewrite.pool == pool])

    def rewrites_of(self, pool: PoolName) -> ModelRewrites:
        """The rewrite rules of a pool. A rule that lists a model precedes rules for all models. Then the older object
        precedes, then the earlier rule, as in the inference extension."""
        by_model: dict[str, tuple[TargetModel, ...]] = {}
        others: tuple[TargetModel, ...] | None = None
        for rewrite in self.rewrites_in_order(pool):
            for rule in rewrite.rules:
                if not rule.models and others is None:
                    others = rule.targets
                for model in rule.models:
                    by_model.setdefault(model, rule.targets)
        return ModelRewrites(by_model, others or ())

    def routed_pools(self) -> frozenset[PoolName]:
        """Pools that are a backend of a route."""
        return frozenset(
            PoolName(ref.group, ref.namespace or route.metadata.namespace, ref.name)
            for route in self.http_routes
            for rule in route.spec.rules
            for ref in rule.backend_refs
            if ref.kind == "InferencePool"
        )


def _oldest_first(objects: Sequence[_Aged]) -> list[_Aged]:
    return sorted(objects, key=lambda item: (item.created or _OLDEST, item.name))
