"""The inference objects in the form that the picker uses, independent of their API version."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from picker.resources.names import ObjectName, PoolName


class FailureMode(StrEnum):
    """Envoy's treatment of a request when the picker cannot be reached."""

    FAIL_OPEN = "FailOpen"
    FAIL_CLOSE = "FailClose"


class AppProtocol(StrEnum):
    """The protocol of the model servers."""

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
    """Which requests are rejected first when there is no capacity for all. Unset means Standard."""

    priority: int
    """Of the requests of an InferenceModel with this criticality. The sign of any priority is its criticality."""

    CRITICAL = "Critical", 1
    STANDARD = "Standard", 0
    SHEDDABLE = "Sheddable", -1

    def __new__(cls, value: str, priority: int) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.priority = priority
        return member

    @classmethod
    def of_priority(cls, priority: int) -> "Criticality":
        """The criticality of an InferenceObjective's priority: below 0 Sheddable, 0 Standard, above it Critical.

        0 is also the priority of requests without an objective.
        """
        if priority < 0:
            return cls.SHEDDABLE
        return cls.STANDARD if priority == 0 else cls.CRITICAL


class PickerBodyMode(StrEnum):
    """Values of BODY_MODE_ANNOTATION: how Envoy sends a request's body to a picker of another project."""

    DUPLEX = "duplex"
    """Envoy's FULL_DUPLEX_STREAMED, as the endpoint picker protocol requires. Envoy keeps no copy of the body."""
    BUFFERED = "buffered"
    """In one message, of which Envoy keeps a copy. The picker cannot change the body."""


@dataclass(frozen=True, slots=True)
class PickerRef:
    """The Service of the endpoint picker that a pool names (`extensionRef`, `endpointPickerRef`)."""

    service: ObjectName
    port: int
    failure_mode: FailureMode
    body_mode: PickerBodyMode = PickerBodyMode.DUPLEX
    """This project's own pickers ignore it."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Settings of a pool in place of the picker's of the same name. None: the picker's."""

    flow_control: bool | None = None
    flow_control_time_limit_s: float | None = None
    flow_control_max_requests: int | None = None
    flow_control_max_bytes: int | None = None
    kv_events: bool | None = None
    scrape_interval_s: float | None = None


@dataclass(frozen=True, slots=True)
class InferencePool:
    """Interchangeable model servers, and the strategy that chooses among them."""

    name: PoolName
    selector: Mapping[str, str]
    """Labels that a model server must have. Never empty."""
    target_ports: tuple[int, ...]
    """1 to 8 unique ports. Each is a separate endpoint on every server."""
    picker: PickerRef | None
    app_protocol: AppProtocol
    strategy: RoutingStrategy
    settings: PoolSettings = PoolSettings()


@dataclass(frozen=True, slots=True)
class TargetModel:
    """A model's name on the servers, and its share of the requests."""

    name: str
    weight: int


@dataclass(frozen=True, slots=True)
class InferenceModel:
    """A model name of clients: the criticality of its requests, and the servers' models that serve it."""

    name: ObjectName
    pool: PoolName
    model_name: str
    criticality: Criticality
    targets: tuple[TargetModel, ...]
    """Never empty: a model without targets is served under its own name."""
    created: datetime | None
    """Of two objects for the same model of a pool the older one is used."""


@dataclass(frozen=True, slots=True)
class InferenceObjective:
    """The priority of requests that name it in the header `x-llm-d-inference-objective`."""

    name: ObjectName
    pool: PoolName
    priority: int
    """Requests of higher priority are served first. Below 0 they are shed when there is no capacity for all."""


@dataclass(frozen=True, slots=True)
class RewriteRule:
    """Maps models that clients request to models of the servers."""

    models: tuple[str, ...]
    """Names that clients use. Empty means all names that no rule lists."""
    targets: tuple[TargetModel, ...]
    """Empty: the models keep their names."""


@dataclass(frozen=True, slots=True)
class InferenceModelRewrite:
    """Rules that map the models of a pool to other names on the servers, or split them."""

    name: ObjectName
    pool: PoolName
    rules: tuple[RewriteRule, ...]
    created: datetime | None
    """Of two rules for the same model of a pool that of the older object is used. Within an object the first is
    used."""


@dataclass(frozen=True, slots=True)
class ModelAdapters:
    """The adapters of a base model, by a ConfigMap of llm-d's payload processor."""

    name: ObjectName
    base_model: str
    adapters: tuple[str, ...]
    created: datetime | None


@dataclass(frozen=True, slots=True)
class ModelRewrites:
    """All rewrite rules of a pool, merged."""

    by_model: Mapping[str, tuple[TargetModel, ...]]
    others: tuple[TargetModel, ...]
    """For models without an entry. Empty: they keep their names."""

    def targets(self, model: str) -> tuple[TargetModel, ...]:
        """The targets of `model`. Empty if it keeps its name."""
        return self.by_model.get(model, self.others)
