"""An unreadable object in a call of Envoy Gateway affects no other pool."""

import json
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picker.xds import extension_service_pb2 as service_pb2
from picker.xds.extension import Extension
from picker.xds.extension_objects import MAX_OBJECT_BYTES, pools_of
from picker.xds.extension_server import SERVICE, ExtensionServer
from structlog.testing import capture_logs
from test_extension import CONFIG, RED, RULE, TO_RED, Lookup, Services, backends, pickers_of, pool_json, route

VALID: dict[str, Any] = json.loads(pool_json())


def changed(**fields: object) -> bytes:
    return json.dumps(VALID | fields).encode()


UNREADABLE = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"kind": "\xff"}',
    "too deep": b"[" * 200_000,
    "a number too long": b'{"kind": ' + b"9" * 5000 + b"}",
    "null": b"null",
    "a list": b"[]",
    "kind is a list": changed(kind=[]),
    "version is an object": changed(apiVersion={}),
    "no metadata": json.dumps({key: value for key, value in VALID.items() if key != "metadata"}).encode(),
    "metadata is null": changed(metadata=None),
    "metadata is a list": changed(metadata=[]),
    "no name": changed(metadata={"namespace": "default"}),
    "no namespace": changed(metadata={"name": "red"}),
    "name is an object": changed(metadata={"name": {}, "namespace": "default"}),
    "spec is null": changed(spec=None),
    "too large": pool_json() + b" " * MAX_OBJECT_BYTES,
}

unreadable = pytest.mark.parametrize("object_bytes", UNREADABLE.values(), ids=UNREADABLE.keys())

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def resources(*objects: bytes) -> list[service_pb2.ExtensionResource]:
    return [service_pb2.ExtensionResource(unstructured_bytes=object_bytes) for object_bytes in objects]


@unreadable
def test_unreadable_object_does_not_affect_other_pools(object_bytes: bytes) -> None:
    assert [pool.name for pool in pools_of(resources(object_bytes, pool_json(), object_bytes))] == [RED.name]


@unreadable
def test_unreadable_object_is_logged_with_a_short_reason(object_bytes: bytes) -> None:
    with capture_logs() as logs:
        pools_of(resources(object_bytes))
    assert [line["event"] for line in logs] == ["extension.invalid_pool"]
    assert len(logs[0]["reason"]) <= 256
    assert len(logs[0]["pool"]) <= 256


def test_long_names_and_values_are_shortened_in_the_log() -> None:
    long = "x" * 100_000
    with capture_logs() as logs:
        pools_of(resources(changed(metadata={"name": long, "namespace": "default"}, spec={long: long})))
    assert len(logs[0]["reason"]) <= 256
    assert len(logs[0]["pool"]) <= 256


@given(st.binary(max_size=200))
def test_arbitrary_bytes_do_not_affect_another_pool(object_bytes: bytes) -> None:
    assert RED.name in [pool.name for pool in pools_of(resources(object_bytes, pool_json()))]


@given(st.sampled_from(sorted(VALID)), json_values)
def test_arbitrary_field_values_do_not_affect_another_pool(field: str, value: object) -> None:
    assert RED.name in [pool.name for pool in pools_of(resources(changed(**{field: value}), pool_json()))]


@given(st.sampled_from(sorted(VALID["spec"])), json_values)
def test_arbitrary_spec_values_do_not_affect_another_pool(field: str, value: object) -> None:
    spec = {**VALID["spec"], field: value}
    assert RED.name in [pool.name for pool in pools_of(resources(changed(spec=spec), pool_json()))]


async def test_call_with_an_unreadable_object_serves_the_other_pool() -> None:
    server = ExtensionServer(Extension(CONFIG), Lookup(backends((RED, 1))), Services(), "127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/PostRouteModify",
                request_serializer=service_pb2.PostRouteModifyRequest.SerializeToString,
                response_deserializer=service_pb2.PostRouteModifyResponse.FromString,
            )
            context = service_pb2.PostRouteExtensionContext(extension_resources=resources(b"{", pool_json()))
            response = await call(
                service_pb2.PostRouteModifyRequest(
                    route=route((RULE, 1)).SerializeToString(), post_route_context=context
                )
            )
    finally:
        await server.stop()
    made = type(route((RULE, 1))).FromString(response.route)
    assert pickers_of(made)[TO_RED][0] == str(RED.name)
