"""Objects that an API server accepts and that are invalid nevertheless."""

from typing import Any

from picker.resources.inference import InferencePool, RoutingStrategy
from picker.resources.names import POOL_GROUP_V1ALPHA2
from picker.resources.pool_wire import STRATEGY_ANNOTATION, InferencePoolV1Alpha2
from picker.sources.cluster import ObjectReader
from structlog.testing import capture_logs


def pool(strategy: str = "DEFAULT", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{POOL_GROUP_V1ALPHA2}/v1alpha2",
        "kind": "InferencePool",
        "metadata": {"name": "red", "namespace": "default", "annotations": {STRATEGY_ANNOTATION: strategy}},
        "spec": {"selector": {"app": "red"}, "targetPortNumber": 8000, "addedLater": True, **spec},
    }


def test_an_object_that_becomes_invalid_keeps_its_last_valid_state() -> None:
    """The log reports the problem."""
    reader = ObjectReader(InferencePoolV1Alpha2)
    right = reader.keep(pool("PREFIX_CACHE"), None)
    with capture_logs() as logs:
        assert reader.keep(pool("FASTEST"), right) is right
    assert "found 'FASTEST'" in logs[0]["problem"]


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
