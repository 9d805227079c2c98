"""Wire types of InferencePool (v1alpha2 and v1) and InferenceModel (v1alpha2), and their conversion.

Rules and defaults are those of the Gateway API inference extension's CRDs. `pool_annotations` has the annotations.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from picker.resources.inference import (
    AppProtocol,
    Criticality,
    FailureMode,
    InferenceModel,
    InferencePool,
    PickerRef,
    TargetModel,
)
from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2, ObjectName, PoolName
from picker.resources.pool_annotations import PoolAnnotations
from picker.resources.wire import DnsName, Labels, Metadata, Object, Port, Wire

PICKER_PORT = 9002
"""Port of the picker's Service if a pool names none."""

MAX_TARGET_MODELS = 10
MAX_WEIGHT = 1_000_000


class PoolMetadata(Metadata):
    annotations: PoolAnnotations = PoolAnnotations()


Selector = Annotated[Labels, Field(min_length=1, max_length=64)]


class ExtensionRef(Wire):
    """The picker's Service (v1alpha2)."""

    group: Literal[""] = ""
    kind: Literal["Service"] = "Service"
    name: DnsName
    port_number: Port = PICKER_PORT
    failure_mode: FailureMode = FailureMode.FAIL_CLOSE


class InferencePoolSpecV1Alpha2(Wire):
    selector: Selector = Field(description="Labels that a model server carries")
    target_port_number: Port = Field(description="Where the model servers listen")
    extension_ref: ExtensionRef | None = None


class InferencePoolV1Alpha2(Object):
    kind: Literal["InferencePool"]
    metadata: PoolMetadata  # pyright: ignore[reportIncompatibleVariableOverride]  # It is frozen.
    spec: InferencePoolSpecV1Alpha2

    def pool(self) -> InferencePool:
        spec, ref = self.spec, self.spec.extension_ref
        service = ObjectName(self.metadata.namespace, ref.name) if ref is not None else None
        return InferencePool(
            name=PoolName(POOL_GROUP_V1ALPHA2, self.metadata.namespace, self.metadata.name),
            selector=spec.selector,
            target_ports=(spec.target_port_number,),
            picker=PickerRef(service, ref.port_number, ref.failure_mode) if ref is not None and service else None,
            app_protocol=AppProtocol.HTTP,
            strategy=self.metadata.annotations.strategy,
            settings=self.metadata.annotations.settings(),
        )


class TargetPort(Wire):
    number: Port


class PickerPort(Wire):
    number: Port = PICKER_PORT


class EndpointPickerRef(Wire):
    """The picker's Service (v1)."""

    group: Literal[""] = ""
    kind: Literal["Service"] = "Service"
    name: DnsName
    port: PickerPort = PickerPort()
    failure_mode: FailureMode = FailureMode.FAIL_CLOSE


class LabelSelector(Wire):
    match_labels: Selector


def _ports_are_unique(ports: tuple[TargetPort, ...]) -> tuple[TargetPort, ...]:
    if len({port.number for port in ports}) < len(ports):
        raise ValueError("port numbers must be unique")
    return ports


class InferencePoolSpecV1(Wire):
    selector: LabelSelector
    target_ports: Annotated[tuple[TargetPort, ...], AfterValidator(_ports_are_unique)] = Field(
        min_length=1, max_length=8, description="Where the model servers listen: one endpoint each"
    )
    app_protocol: AppProtocol = AppProtocol.HTTP
    endpoint_picker_ref: EndpointPickerRef | None = None


class InferencePoolV1(Object):
    kind: Literal["InferencePool"]
    metadata: PoolMetadata  # pyright: ignore[reportIncompatibleVariableOverride]  # It is frozen.
    spec: InferencePoolSpecV1

    def pool(self) -> InferencePool:
        spec, ref = self.spec, self.spec.endpoint_picker_ref
        service = ObjectName(self.metadata.namespace, ref.name) if ref is not None else None
        return InferencePool(
            name=PoolName(POOL_GROUP_V1, self.metadata.namespace, self.metadata.name),
            selector=spec.selector.match_labels,
            target_ports=tuple(port.number for port in spec.target_ports),
            picker=PickerRef(service, ref.port.number, ref.failure_mode) if ref is not None and service else None,
            app_protocol=spec.app_protocol,
            strategy=self.metadata.annotations.strategy,
            settings=self.metadata.annotations.settings(),
        )


class PoolRef(Wire):
    group: Literal["inference.networking.x-k8s.io", "inference.networking.k8s.io"] = POOL_GROUP_V1ALPHA2
    kind: Literal["InferencePool"] = "InferencePool"
    name: DnsName


class TargetModelWire(Wire):
    name: str = Field(min_length=1, max_length=253)
    weight: int | None = Field(None, strict=True, ge=1, le=MAX_WEIGHT)


class InferenceModelSpec(Wire):
    model_name: str = Field(min_length=1, max_length=256, description="The model as clients call it")
    criticality: Criticality = Criticality.STANDARD
    target_models: tuple[TargetModelWire, ...] = Field((), max_length=MAX_TARGET_MODELS)
    pool_ref: PoolRef

    @model_validator(mode="after")
    def _weights_on_all_or_none(self) -> Self:
        weighted = [target.weight is not None for target in self.target_models]
        if any(weighted) and not all(weighted):
            raise ValueError("targetModels: weight must be set on all or on none")
        return self


class InferenceModelV1Alpha2(Object):
    kind: Literal["InferenceModel"]
    spec: InferenceModelSpec

    def model(self) -> InferenceModel:
        spec = self.spec
        return InferenceModel(
            name=self.name,
            pool=PoolName(spec.pool_ref.group, self.metadata.namespace, spec.pool_ref.name),
            model_name=spec.model_name,
            criticality=spec.criticality,
            targets=tuple(TargetModel(target.name, target.weight or 1) for target in spec.target_models)
            or (TargetModel(spec.model_name, 1),),
            created=self.metadata.creation_timestamp,
        )
