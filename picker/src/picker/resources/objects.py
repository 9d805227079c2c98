"""All that users wrote, at one moment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from picker.resources.envoy_gateway import BackendTrafficPolicy
from picker.resources.gateway_api import Gateway, GatewayClass, HTTPRoute
from picker.resources.inference import InferenceModel, InferencePool
from picker.resources.names import PoolName
from picker.resources.services import Service

AnyObject = InferencePool | InferenceModel | GatewayClass | Gateway | HTTPRoute | Service | BackendTrafficPolicy
_AT_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Resources:
    """Typed objects by kind, each kind ordered by name."""

    pools: Mapping[PoolName, InferencePool] = field(default_factory=dict[PoolName, InferencePool])
    models: tuple[InferenceModel, ...] = ()
    gateway_classes: tuple[GatewayClass, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    http_routes: tuple[HTTPRoute, ...] = ()
    services: tuple[Service, ...] = ()
    traffic_policies: tuple[BackendTrafficPolicy, ...] = ()

    @classmethod
    def of(cls, objects: Iterable[AnyObject]) -> "Resources":
        """Sort `objects` by kind and name. Of two with one name the later stands."""
        by_name = {(type(each).__name__, str(each.name)): each for each in objects}
        ordered = [by_name[key] for key in sorted(by_name)]
        return cls(
            pools={each.name: each for each in ordered if isinstance(each, InferencePool)},
            models=tuple(each for each in ordered if isinstance(each, InferenceModel)),
            gateway_classes=tuple(each for each in ordered if isinstance(each, GatewayClass)),
            gateways=tuple(each for each in ordered if isinstance(each, Gateway)),
            http_routes=tuple(each for each in ordered if isinstance(each, HTTPRoute)),
            services=tuple(each for each in ordered if isinstance(each, Service)),
            traffic_policies=tuple(each for each in ordered if isinstance(each, BackendTrafficPolicy)),
        )

    def models_of(self, pool: PoolName) -> Mapping[str, InferenceModel]:
        """The models of a pool by the name that clients use. Of two objects for one name the older wins, as
        upstream."""
        models = [model for model in self.models if model.pool == pool]
        models.sort(key=lambda model: (model.created or _AT_FIRST, model.name), reverse=True)
        return {model.model_name: model for model in models}

    def routed_pools(self) -> frozenset[PoolName]:
        """Pools that some route leads to."""
        return frozenset(
            PoolName(ref.group, ref.namespace or route.metadata.namespace, ref.name)
            for route in self.http_routes
            for rule in route.spec.rules
            for ref in rule.backend_refs
            if ref.kind == "InferencePool"
        )
