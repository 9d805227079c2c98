"""Policies of routes by model, in a real Envoy: filters that Envoy Gateway adds disabled and enables by route."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.api_key_auth.v3 import api_key_auth_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from gateway_objects import OPTIONS, gateway, resources, route
from picker.xds.model_filter import with_model_filter
from picker.xds.model_names import DeclaredModels
from picker.xds.model_routes import with_model_routing
from picker.xds.protobuf import pack_any
from picker.xds.translate import translate
from static_envoy import free_ports, running_envoy
from test_envoy_accepts_routes import inlined

KEYS, MARK = "envoy.filters.http.api_key_auth", "envoy.filters.http.lua/envoyextensionpolicy/default/mark/lua/0"
SCRIPT = "function envoy_on_response(handle) handle:headers():add('x-mark', 'yes') end"


def keys(client: str) -> dict[str, Any]:
    return {
        "credentials": [api_key_auth_pb2.Credential(key=f"key-of-{client}", client=client)],
        "key_sources": [api_key_auth_pb2.KeySource(header="x-key")],
    }


def served(model: str, **filters: Any) -> route_components_pb2.Route:
    """Returns Envoy Gateway's route of a model, which answers with its name."""
    made = route_components_pb2.Route(name=f"httproute/default/{model}/rule/0/match/0/*")
    made.match.prefix = "/"
    made.match.headers.add(name="X-Gateway-Model-Name").string_match.exact = model
    made.direct_response.status = 200
    made.direct_response.body.inline_string = model
    for name, settings in filters.items():
        made.typed_per_filter_config[name].CopyFrom(pack_any(settings))
    return made


def manager_of(listener: listener_pb2.Listener) -> hcm_pb2.HttpConnectionManager:
    return hcm_pb2.HttpConnectionManager.FromString(listener.filter_chains[0].filters[0].typed_config.value)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("envoy")
    listening, admin = free_ports()
    config = translate(resources(gateway({"name": "http", "port": listening}), route({"backendRefs": []})), OPTIONS)
    whole = inlined(config, folder)
    manager = manager_of(config.listeners[0])
    disabled = [
        hcm_pb2.HttpFilter(name=KEYS, disabled=True, typed_config=pack_any(api_key_auth_pb2.ApiKeyAuth(**keys("a")))),
        hcm_pb2.HttpFilter(name=MARK, disabled=True, typed_config=pack_any(lua_pb2.Lua(inline_code=SCRIPT))),
    ]
    filters = list(manager.http_filters)
    del manager.http_filters[:]
    manager.http_filters.extend([*disabled, *filters])
    # The Any without a value enables a filter without a setting of its own, as Envoy Gateway writes it.
    enabled = route_components_pb2.FilterConfig()
    enabled.config.SetInParent()
    [configuration] = config.route_configurations
    del configuration.virtual_hosts[0].routes[:]
    configuration.virtual_hosts[0].routes.extend(
        [
            served("a", **{KEYS: api_key_auth_pb2.ApiKeyAuthPerRoute(**keys("a")), MARK: enabled}),
            served("b", **{KEYS: api_key_auth_pb2.ApiKeyAuthPerRoute(**keys("b"))}),
        ]
    )
    listener = whole.static_resources.listeners[0]
    listener.filter_chains[0].filters[0].typed_config.CopyFrom(pack_any(manager))
    listener.CopyFrom(with_model_filter(listener, {configuration.name}))
    manager = manager_of(listener)
    manager.route_config.CopyFrom(with_model_routing(configuration, DeclaredModels(), 1 << 20))
    # As in a configuration that Envoy fetches.
    manager.route_config.validate_clusters.value = False
    listener.filter_chains[0].filters[0].typed_config.CopyFrom(pack_any(manager))
    with running_envoy(whole, listening, admin, folder):
        yield listening


def asked(port: int, model: str, key: str | None) -> tuple[int, bytes, str | None]:
    """Returns the status and the body, and the header of the extension policy."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"content-type": "application/json", **({"x-key": key} if key is not None else {})}
    connection.request("POST", "/v1/completions", json.dumps({"model": model}), headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers["x-mark"]


def test_each_route_has_its_own_keys(port: int) -> None:
    assert [asked(port, model, f"key-of-{client}")[0] for model in "ab" for client in "ab"] == [200, 401, 401, 200]
    assert [asked(port, model, None)[0] for model in ("a", "b", "unknown")] == [401, 401, 401]


def test_a_filter_of_one_route_is_off_for_others(port: int) -> None:
    assert asked(port, "a", "key-of-a")[1:] == (b"a", "yes")
    assert asked(port, "b", "key-of-b")[1:] == (b"b", None)


def test_the_list_of_models_needs_a_key(port: int) -> None:
    statuses: list[int] = []
    for headers in ({}, {"x-key": "key-of-a"}):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/v1/models", headers=headers)
        statuses.append(connection.getresponse().status)
    assert statuses == [401, 200]
