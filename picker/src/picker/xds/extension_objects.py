"""Reads the objects that Envoy Gateway sends with a call on its extension."""

import json
from collections.abc import Iterable
from typing import Any

import structlog

from picker.bounded_text import shorten
from picker.resources.inference import InferencePool
from picker.resources.parse import KINDS, typed
from picker.xds import extension_service_pb2 as service_pb2

MAX_OBJECT_BYTES = 2 << 20
"""Of one object. Judgement: etcd takes requests of up to 1.5 MiB, and it keeps custom resources as JSON."""

_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, RecursionError)
"""What reading JSON of an unexpected shape raises. ValueError includes the errors of json and of pydantic."""

log = structlog.get_logger(__name__)


def pools_of(resources: Iterable[service_pb2.ExtensionResource]) -> list[InferencePool]:
    """The pools among the objects. One that cannot be read or served is logged and left out. Envoy Gateway's own
    cluster without endpoints answers for it with 503, and the pool's status gives the reason."""
    pools: list[InferencePool] = []
    for each in resources:
        object_: object = None
        try:
            if len(each.unstructured_bytes) > MAX_OBJECT_BYTES:
                raise ValueError(f"the object has more than {MAX_OBJECT_BYTES} bytes")
            object_ = json.loads(each.unstructured_bytes)
            pool = _pool(object_)
        except _UNREADABLE as error:
            log.error("extension.invalid_pool", pool=_name(object_), reason=shorten(f"{type(error).__name__}: {error}"))
            continue
        if pool is not None:
            pools.append(pool)
    return pools


def _pool(object_: Any) -> InferencePool | None:
    """None for an object of another kind. Raises one of `_UNREADABLE`."""
    wire = KINDS.get(object_.get("kind", ""), {}).get(object_.get("apiVersion", ""))
    if wire is None:
        return None
    metadata = object_["metadata"]
    # The picker reads annotations. A wrong one is no reason to stop serving the pool.
    bare = {**object_, "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]}}
    pool = typed(wire.model_validate(bare, extra="ignore"))
    return pool if isinstance(pool, InferencePool) else None


def _name(object_: object) -> str:
    """For a log: the name as far as the object has one."""
    match object_:
        case {"metadata": {"namespace": str(namespace), "name": str(name)}}:
            return shorten(f"{namespace}/{name}")
        case _:
            return "unknown"
