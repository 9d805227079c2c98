"""Objects that an API server accepts and that are invalid nevertheless."""

from typing import Any

import pytest
from picker.resources.inference import InferencePool, RoutingStrategy
from picker.resources.names import POOL_GROUP_V1ALPHA2
from picker.resources.pool_annotations import PREFIX, STRATEGY_ANNOTATION
from picker.resources.pool_wire import InferencePoolV1Alpha2
from picker.sources.cluster import ObjectReader
from structlog.testing import capture_logs


def pool(strategy: str = "DEFAULT", others: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    annotations = {STRATEGY_ANNOTATION: strategy} | {PREFIX + key: value for key, value in (others or {}).items()}
    return {
        "apiVersion": f"{POOL_GROUP_V1ALPHA2}/v1alpha2",
        "kind": "InferencePool",
        "metadata": {"name": "red", "namespace": "default", "annotations": annotations},
        "spec": {"selector": {"app": "red"}, "targetPortNumber": 8000, "addedLater": True, **spec},
    }


def keep(pool: dict[str, Any], before: InferencePool | None = None) -> InferencePool:
    """The pool as its reader returns it."""
    with capture_logs():
        read = ObjectReader(InferencePoolV1Alpha2).keep(pool, before)
    assert isinstance(read, InferencePool)
    return read


def test_an_object_that_becomes_invalid_keeps_its_last_valid_state() -> None:
    """The log reports the problem."""
    reader = ObjectReader(InferencePoolV1Alpha2)
    right = reader.keep(pool("PREFIX_CACHE"), None)
    with capture_logs() as logs:
        assert reader.keep(pool(targetPortNumber=0), right) is right
    assert "found 0" in logs[0]["problem"]


def test_an_annotation_that_becomes_invalid_keeps_its_last_valid_value() -> None:
    """The log reports the problem, once."""
    reader = ObjectReader(InferencePoolV1Alpha2)
    right = reader.keep(pool("PREFIX_CACHE"), None)
    with capture_logs() as logs:
        read = reader.keep(pool("FASTEST"), right)
    assert isinstance(read, InferencePool)
    assert read.strategy is RoutingStrategy.PREFIX_CACHE
    assert ["found 'FASTEST'" in line["problem"] for line in logs] == [True]
    assert reader.refused == 1


def test_an_invalid_annotation_affects_no_other_change() -> None:
    """Neither of the spec nor of other annotations."""
    before = keep(pool("PREFIX_CACHE", {"kv-events": "true"}))
    read = keep(pool("FASTEST", {"kv-events": "false", "scrape-interval": "1s"}, targetPortNumber=9000), before)
    assert (read.target_ports, read.strategy) == ((9000,), RoutingStrategy.PREFIX_CACHE)
    assert (read.settings.kv_events, read.settings.scrape_interval_s) == (False, 1.0)


@pytest.mark.parametrize(("before", "kept"), [({"flow-control-time-limit": "30s"}, 30.0), ({}, None)])
def test_an_invalid_setting_keeps_its_last_valid_value(before: dict[str, str], kept: float | None) -> None:
    """None is the picker's own setting."""
    read = keep(pool(others={"flow-control-time-limit": "1h"}), keep(pool(others=before)))
    assert read.settings.flow_control_time_limit_s == kept


def test_a_picker_that_starts_reads_the_strategy_in_force_from_the_status() -> None:
    """Other pickers and the status have the last valid strategy."""
    condition = {"type": "RoutingStrategy", "status": "False", "reason": "PREFIX_CACHE"}
    status = {"parent": [{"parentRef": {"name": "gw"}, "conditions": [condition]}]}
    assert keep(pool("FASTEST") | {"status": status}).strategy is RoutingStrategy.PREFIX_CACHE
    assert keep(pool("ROUND_ROBIN") | {"status": status}).strategy is RoutingStrategy.ROUND_ROBIN


@pytest.mark.parametrize("reason", ["UnknownStrategy", "", None, 1])
def test_a_status_without_a_strategy_means_default(reason: object) -> None:
    status = {"parents": [{"conditions": [{"type": "RoutingStrategy", "reason": reason}, {}]}, {}], "parent": None}
    assert keep(pool("FASTEST") | {"status": status}).strategy is RoutingStrategy.DEFAULT


def test_a_pool_with_an_annotation_that_was_never_valid_uses_default() -> None:
    """A picker that starts after the edit has no previous state."""
    with capture_logs():
        read = ObjectReader(InferencePoolV1Alpha2).keep(pool("FASTEST"), None)
    assert isinstance(read, InferencePool)
    assert read.strategy is RoutingStrategy.DEFAULT


def test_an_object_that_was_never_valid_is_none() -> None:
    """Its own fields are wrong."""
    with capture_logs():
        assert (
            ObjectReader(InferencePoolV1Alpha2).keep(pool(extensionRef={"name": "a", "kind": "Gateway"}), None) is None
        )


def test_fields_of_later_versions_are_ignored() -> None:
    """The API server has validated them."""
    assert ObjectReader(InferencePoolV1Alpha2).keep(pool(), None) is not None
