"""A picker serves and scrapes only the pools that name it."""

from collections.abc import Mapping

import pytest
from picker.commands.serve import pool_filter
from picker.resources.inference import InferencePool
from picker.resources.parse import KINDS, typed
from picker.settings import ServeSettings

BASE_ARGUMENTS = ("--manifests=m", "--endpoints=e")


def pool(namespace: str, picker: str | None) -> InferencePool:
    reference: Mapping[str, object] = {"endpointPickerRef": {"name": picker}} if picker is not None else {}
    wire = KINDS["InferencePool"]["inference.networking.k8s.io/v1"].model_validate(
        {
            "apiVersion": "inference.networking.k8s.io/v1",
            "kind": "InferencePool",
            "metadata": {"name": "pool", "namespace": namespace},
            "spec": {"selector": {"matchLabels": {"app": "a"}}, "targetPorts": [{"number": 8000}], **reference},
        }
    )
    result = typed(wire)
    assert isinstance(result, InferencePool)
    return result


@pytest.mark.parametrize(
    ("arguments", "namespace", "picker", "served"),
    [
        ((), "mallory", "other", True),
        (("--pool=default/pool",), "default", "other", True),
        (("--pool=default/pool",), "mallory", "other", False),
        (("--service=system/picker",), "system", "picker", True),
        (("--service=system/picker",), "system", "other", False),
        (("--service=system/picker",), "system", None, False),
        (("--service=system/picker",), "mallory", "picker", False),
        (("--service=system/picker", '--sharing-namespaces=["team"]'), "team", "picker", True),
        (("--service=system/picker", '--sharing-namespaces=["team"]'), "team", "other", False),
    ],
)
def test_picker_serves_the_pools_that_name_it(
    arguments: tuple[str, ...], namespace: str, picker: str | None, served: bool
) -> None:
    settings = ServeSettings.read([*BASE_ARGUMENTS, *arguments], "picker serve")
    assert pool_filter(settings)(pool(namespace, picker)) is served
