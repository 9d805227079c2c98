"""The inference objects as the rest of the picker sees them, whichever API version they were written in."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from picker.resources.names import ObjectName, PoolName


class FailureMode(StrEnum):
    """What Envoy does with a request when the picker cannot be reached."""

    FAIL_OPEN = "FailOpen"
    FAIL_CLOSE = "FailClose"


class AppProtocol(StrEnum):
    """What the model servers speak."""

    HTTP = "http"
    H2C = "kubernetes.io/h2c"


class RoutingStrategy(StrEnum):
    """Values of the annotation `inference.networking.x-k8s.io/routing-strategy`. The last three are baselines."""

    DEFAULT = "DEFAULT"
    PREFIX_CACHE = "PREFIX_CACHE"
    LEAST_REQUEST = "LEAST_REQUEST"
    ROUND_ROBIN = "ROUND_ROBIN"
    RANDOM = "RANDOM"


class Criticality(StrEnum):
    """How much a request matters when there is not room for all. Unset means Standard."""

    CRITICAL = "Critical"
    STANDARD = "Standard"
    SHEDDABLE = "Sheddable"

    @classmethod
    def of_priority(cls, priority: int) -> "Criticality":
        """What an InferenceObjective's priority means: below 0 it may be shed, and 0 is that of requests without an
        objective."""
        if priority < 0:
            return cls.SHEDDABLE
        return cls.STANDARD if priority == 0 else cls.CRITICAL


@dataclass(frozen=True, slots=True)
class PickerRef:
    """The Service of the endpoint picker that a pool names (`extensionRef`, `endpointPickerRef`)."""

    service: ObjectName
    port: int
    failure_mode: FailureMode


@dataclass(frozen=True, slots=True)
class InferencePool:
    """Model servers that are interchangeable, and how to choose among them."""

    name: PoolName
    selector: Mapping[str, str]
    """Labels that a model server must carry; never empty."""
    target_ports: tuple[int, ...]
    """1 to 8 of them, unique; each is an endpoint of its own on every server."""
    picker: PickerRef | None
    app_protocol: AppProtocol
    strategy: RoutingStrategy


@dataclass(frozen=True, slots=True)
class TargetModel:
    """A model as the servers call it, and its share of the requests."""

    name: str
    weight: int


@dataclass(frozen=True, slots=True)
class InferenceModel:
    """A model as clients call it: how critical its requests are and which models of the servers answer them."""

    name: ObjectName
    pool: PoolName
    model_name: str
    criticality: Criticality
    targets: tuple[TargetModel, ...]
    """Never empty: a model without targets is served under its own name."""
    created: datetime | None
    """Of two objects for the same model of a pool the older one wins."""


@dataclass(frozen=True, slots=True)
class InferenceObjective:
    """How much the requests matter that name it in their header `x-gateway-inference-objective`."""

    name: ObjectName
    pool: PoolName
    priority: int
    """The higher, the sooner served. Below 0: shed when there is not room for all."""


@dataclass(frozen=True, slots=True)
class RewriteRule:
    """Which models of the servers answer for a model that clients ask for."""

    models: tuple[str, ...]
    """The names that clients use; empty means every name that no rule lists."""
    targets: tuple[TargetModel, ...]
    """Empty: the models keep their names."""


@dataclass(frozen=True, slots=True)
class InferenceModelRewrite:
    """Rules that give the models of a pool other names on the servers, or split them."""

    name: ObjectName
    pool: PoolName
    rules: tuple[RewriteRule, ...]
    created: datetime | None
    """Of two rules for the same model of a pool that of the older object wins, and in one object the first."""


@dataclass(frozen=True, slots=True)
class ModelRewrites:
    """All rewrite rules of a pool, brought into one."""

    by_model: Mapping[str, tuple[TargetModel, ...]]
    others: tuple[TargetModel, ...]
    """For models that have no entry; empty: they keep their names."""

    def targets(self, model: str) -> tuple[TargetModel, ...]:
        """What serves `model`; empty when it keeps its name."""
        return self.by_model.get(model, self.others)
