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
