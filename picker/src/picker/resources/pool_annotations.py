"""The annotations of an InferencePool with which its users set it up.

`routing-strategy` and `model-server-runtime` are ACK's. The others are the picker's settings of the same name, for one
pool."""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from picker.bounded_text import shorten
from picker.printable import printable
from picker.resources.inference import InferencePool, PoolSettings, RoutingStrategy
from picker.resources.problems import sentence
from picker.resources.wire import Wire, duration_s
from picker.settings import QueueBytes, QueueRequests, QueueTimeLimitS, ScrapeIntervalS

PREFIX = "inference.networking.x-k8s.io/"
STRATEGY_ANNOTATION = f"{PREFIX}routing-strategy"

EXPORT_ANNOTATION = f"{PREFIX}export"
"""Asks for the pool in the other clusters of a ClusterSet (GAIE, proposal 1374). A condition of its own reports it."""

STRATEGY_CONDITION: Literal["RoutingStrategy"] = "RoutingStrategy"
"""Type of the condition whose reason is the strategy in force."""

_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")

MAX_UNKNOWN = 10
"""Limit on the reported unknown annotations of one pool. Judgement: users correct fewer at once."""


def _switch(value: object) -> bool:
    if value not in ("true", "false"):
        raise ValueError("allowed are 'true' and 'false', in quotes")
    return value == "true"


def _whole_number(value: object) -> int:
    if not isinstance(value, str) or not _WHOLE_NUMBER.fullmatch(value):
        raise ValueError("allowed is a whole number of at most 18 digits, in quotes")
    return int(value)


def _annotation(name: str) -> Any:
    """An optional field that is read from the annotation `name`."""
    return Field(default=None, validation_alias=f"{PREFIX}{name}")


_Switch = Annotated[bool, BeforeValidator(_switch)]


class PoolAnnotations(Wire):
    """The annotations that are read. Others are ignored; see `unknown_annotations`."""

    model_config = ConfigDict(extra="ignore")

    strategy: RoutingStrategy = Field(default=RoutingStrategy.DEFAULT, validation_alias=STRATEGY_ANNOTATION)
    runtime: Literal["vllm"] | None = _annotation("model-server-runtime")
    flow_control: _Switch | None = _annotation("flow-control")
    flow_control_time_limit_s: Annotated[QueueTimeLimitS, BeforeValidator(duration_s)] | None = _annotation(
        "flow-control-time-limit"
    )
    flow_control_max_requests: Annotated[QueueRequests, BeforeValidator(_whole_number)] | None = _annotation(
        "flow-control-max-requests"
    )
    flow_control_max_bytes: Annotated[QueueBytes, BeforeValidator(_whole_number)] | None = _annotation(
        "flow-control-max-bytes"
    )
    kv_events: _Switch | None = _annotation("kv-events")
    scrape_interval_s: Annotated[ScrapeIntervalS, BeforeValidator(duration_s)] | None = _annotation("scrape-interval")

    def settings(self) -> PoolSettings:
        return PoolSettings(**{field.name: getattr(self, field.name) for field in fields(PoolSettings)})


FIELDS: Mapping[str, str] = {str(field.validation_alias): name for name, field in PoolAnnotations.model_fields.items()}
"""Names of fields by annotation."""


def invalid_settings(annotations: Mapping[str, object]) -> list[str]:
    """Returns a message for each annotation with an invalid value."""
    try:
        PoolAnnotations.model_validate(annotations)
    except ValidationError as error:
        return [f"{item['loc'][0]}: {sentence(item, PoolAnnotations)}" for item in error.errors()]
    return []


def unknown_annotations(annotations: Iterable[object]) -> Iterator[str]:
    """Yields a message for each annotation under PREFIX that is not read, at most MAX_UNKNOWN."""
    known = {*FIELDS, EXPORT_ANNOTATION}
    unknown = [name for name in annotations if isinstance(name, str) and name.startswith(PREFIX) and name not in known]
    for name in sorted(unknown)[:MAX_UNKNOWN]:
        near = difflib.get_close_matches(shorten(name), FIELDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        yield f"{shorten(printable(name))} is unknown and has no effect{hint}"


def keep_settings(pool: InferencePool, before: InferencePool, annotations: Collection[str]) -> InferencePool:
    """Returns `pool` with the settings that `annotations` name from `before`."""
    names = {FIELDS[annotation] for annotation in annotations if annotation in FIELDS}
    if "strategy" in names:
        pool = replace(pool, strategy=before.strategy)
    kept = {field.name: getattr(before.settings, field.name) for field in fields(PoolSettings) if field.name in names}
    return replace(pool, settings=replace(pool.settings, **kept))


def strategy_in_force(pool: Mapping[str, Any]) -> RoutingStrategy:
    """Returns the strategy that the status of the API object `pool` records: the reason of its condition
    `RoutingStrategy`. Pickers and the status use it while the annotation is invalid."""
    status = cast("Mapping[str, Any]", pool.get("status") or {})
    parents = cast("list[Mapping[str, Any]]", [*(status.get("parents") or ()), *(status.get("parent") or ())])
    for parent in parents:
        for condition in cast("list[Mapping[str, Any]]", parent.get("conditions") or []):
            if condition.get("type") == STRATEGY_CONDITION and condition.get("reason") in set(RoutingStrategy):
                return RoutingStrategy(condition["reason"])
    return RoutingStrategy.DEFAULT


def setting_changes(old: InferencePool, new: InferencePool) -> Iterator[str]:
    """Yields a text for each setting in which the pools differ."""
    for annotation, name in FIELDS.items():
        source_old, source_new = (old, new) if name == "strategy" else (old.settings, new.settings)
        before, after = getattr(source_old, name, None), getattr(source_new, name, None)
        if before != after:
            yield f"{annotation.removeprefix(PREFIX)} {_shown(before)} -> {_shown(after)}"


def _shown(value: object) -> str:
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
