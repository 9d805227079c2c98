"""Parses the objects that Envoy Gateway sends with a call of its extension."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from picker.bounded_text import shorten
from picker.resources.inference import InferencePool, PickerBodyMode
from picker.resources.parse import KINDS, typed
from picker.xds import extension_service_pb2 as service_pb2

MAX_OBJECT_BYTES = 2 << 20
"""Limit on one object. Judgement: etcd accepts requests of up to 1.5 MiB, and stores custom resources as JSON."""

BODY_MODE_ANNOTATION = "aigateway.envoyproxy.io/processing-body-mode"
"""Annotation of an InferencePool: a PickerBodyMode. The name and the values are Envoy AI Gateway's."""

_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, RecursionError)
"""Exceptions of reading JSON of an unexpected shape. ValueError includes the errors of json and of pydantic."""

log = structlog.get_logger(__name__)


def pools_of(resources: Iterable[service_pb2.ExtensionResource]) -> list[InferencePool]:
    """Returns the pools among the objects. A pool that is invalid is logged and left out. Envoy Gateway's own cluster
    without endpoints then answers 503, and the pool's status gives the reason."""
    pools: list[InferencePool] = []
    for resource in resources:
        object_: object = None
        try:
            if len(resource.unstructured_bytes) > MAX_OBJECT_BYTES:
                raise ValueError(f"object exceeds the limit of {MAX_OBJECT_BYTES} bytes")
            object_ = json.loads(resource.unstructured_bytes)
            pool = _pool(object_)
        except _UNREADABLE as error:
            log.error("extension.invalid_pool", pool=_name(object_), reason=shorten(f"{type(error).__name__}: {error}"))
            continue
        if pool is not None:
            pools.append(pool)
    return pools


def _pool(object_: Any) -> InferencePool | None:
    """Returns None for an object of another kind. Raises one of `_UNREADABLE`."""
    wire = KINDS.get(object_.get("kind", ""), {}).get(object_.get("apiVersion", ""))
    if wire is None:
        return None
    metadata = object_["metadata"]
    # The picker reads the other annotations. An invalid one does not stop the pool here.
    minimal = {**object_, "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]}}
    pool = typed(wire.model_validate(minimal, extra="ignore"))
    if not isinstance(pool, InferencePool):
        return None
    if pool.picker is None:
        return pool
    return replace(pool, picker=replace(pool.picker, body_mode=_body_mode(metadata.get("annotations") or {}, pool)))


def _body_mode(annotations: Mapping[str, object], pool: InferencePool) -> PickerBodyMode:
    """Returns the annotation's mode; DUPLEX, with a log line, if it is not one."""
    found = annotations.get(BODY_MODE_ANNOTATION, PickerBodyMode.DUPLEX)
    try:
        return PickerBodyMode(found)
    except ValueError:
        log.warning("extension.unknown_body_mode", pool=pool.name.label, found=shorten(str(found)))
        return PickerBodyMode.DUPLEX


def _name(object_: object) -> str:
    """Returns the object's name for a log, as far as it has one."""
    match object_:
        case {"metadata": {"namespace": str(namespace), "name": str(name)}}:
            return shorten(f"{namespace}/{name}")
        case _:
            return "unknown"
