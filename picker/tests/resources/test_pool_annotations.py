"""The settings of a pool: which annotations are valid, and how others are reported."""

import pytest
from gateway_objects import pool, resources
from hypothesis import given
from hypothesis import strategies as st
from picker.resources.inference import PoolSettings
from picker.resources.parse import Parsed, parse
from picker.resources.pool_annotations import FIELDS, PREFIX, PoolAnnotations, invalid_settings, unknown_annotations


def read(**annotations: object) -> PoolSettings:
    named = {PREFIX + name.replace("_", "-"): value for name, value in annotations.items()}
    return PoolAnnotations.model_validate(named).settings()


def problem(name: str, value: object) -> str:
    [message] = invalid_settings({PREFIX + name: value})
    return message


def test_a_pool_without_annotations_has_no_settings_of_its_own() -> None:
    assert read() == PoolSettings()


def test_every_setting_is_read() -> None:
    assert read(
        flow_control="true",
        flow_control_time_limit="1m30s",
        flow_control_max_requests="100",
        flow_control_max_bytes="67108864",
        kv_events="false",
        scrape_interval="500ms",
        model_server_runtime="vllm",
    ) == PoolSettings(
        flow_control=True,
        flow_control_time_limit_s=90.0,
        flow_control_max_requests=100,
        flow_control_max_bytes=64 << 20,
        kv_events=False,
        scrape_interval_s=0.5,
    )


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("flow-control", "yes", "allowed are 'true' and 'false', in quotes"),
        ("flow-control", True, "allowed are 'true' and 'false', in quotes"),
        ("flow-control-time-limit", "30", "allowed are durations such as"),
        ("flow-control-time-limit", "0s", "greater than 0"),
        ("flow-control-time-limit", "291s", "allowed: at most 290"),
        ("flow-control-max-requests", "0", "allowed: at least 1"),
        ("flow-control-max-requests", "1.5", "allowed is a whole number"),
        ("flow-control-max-requests", "50001", "allowed: at most 50000"),
        ("flow-control-max-bytes", "1073741825", "allowed: at most 1073741824"),
        ("flow-control-max-bytes", "64Mi", "allowed is a whole number"),
        ("flow-control-max-bytes", 64, "allowed is a whole number of at most 18 digits, in quotes"),
        ("flow-control-max-bytes", "\u0661", "allowed is a whole number"),
        ("kv-events", "", "allowed are 'true' and 'false', in quotes"),
        ("scrape-interval", "9ms", "allowed: at least 0.01"),
        ("model-server-runtime", "sglang", "found 'sglang'; allowed: 'vllm'"),
        ("model-server-runtime", "trt-llm", "found 'trt-llm'; allowed: 'vllm'"),
    ],
)
def test_an_invalid_value_is_reported_with_what_is_allowed(name: str, value: object, allowed: str) -> None:
    message = problem(name, value)
    assert message.startswith(f"{PREFIX}{name}: found ")
    assert allowed in message


def test_every_setting_of_a_pool_is_an_annotation() -> None:
    assert set(PoolSettings.__dataclass_fields__) | {"strategy", "runtime"} == set(FIELDS.values())


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), st.text() | st.integers() | st.none() | st.booleans()))
def test_any_annotations_are_read_or_reported(annotations: dict[str, object]) -> None:
    for name in annotations:
        assert len(invalid_settings({name: annotations[name]})) <= 1


def test_an_unknown_annotation_is_reported_with_the_one_that_is_meant() -> None:
    """Annotations of others are not."""
    names = [f"{PREFIX}flow-contol", f"{PREFIX}kv-events", "example.com/flow-contol", 3]
    assert list(unknown_annotations(names)) == [
        f"{PREFIX}flow-contol is unknown and has no effect; did you mean {PREFIX}flow-control?"
    ]


def test_unknown_annotations_are_bounded() -> None:
    messages = list(unknown_annotations([f"{PREFIX}{number}{'x' * 100_000}" for number in range(1000)]))
    assert len(messages) == 10
    assert all(len(message) < 2000 for message in messages)


def annotated(name: str, value: str) -> str:
    return pool("a").replace("metadata: {name: a}", f"metadata: {{name: a, annotations: {{{PREFIX}{name}: {value}}}}}")


def test_a_file_with_a_setting_is_read() -> None:
    [read_pool] = resources(annotated("flow-control", '"true"')).pools.values()
    assert read_pool.settings == PoolSettings(flow_control=True)


def test_an_unknown_annotation_in_a_file_is_a_warning() -> None:
    """The object is used without it."""
    [parsed] = parse(annotated("flow-contol", '"true"'), "f.yaml")
    assert isinstance(parsed, Parsed)
    assert ["flow-contol is unknown" in str(warning) for warning in parsed.warnings] == [True]


def test_an_invalid_value_in_a_file_is_a_problem() -> None:
    [parsed] = parse(annotated("flow-control", "true"), "f.yaml")
    assert "flow-control]: found True; allowed are 'true' and 'false', in quotes" in str(parsed)
