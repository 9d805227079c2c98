"""The error bodies of Envoy's own responses, in its configuration."""

from envoy.config.core.v3 import config_source_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from gateway_objects import config, gateway, pool, route, to_pool
from google.protobuf.wrappers_pb2 import UInt32Value
from picker.xds.listeners import http_listener, with_inference_filter
from picker.xds.local_replies import NAMESPACE
from picker.xds.protobuf import pack_any

USERS = hcm_pb2.ResponseMapper(status_code=UInt32Value(value=418))


def manager(listener: listener_pb2.Listener) -> hcm_pb2.HttpConnectionManager:
    [chain] = listener.filter_chains
    return hcm_pb2.HttpConnectionManager.FromString(chain.filters[0].typed_config.value)


def plain_listener() -> listener_pb2.Listener:
    return http_listener("default/gw/llm", "0.0.0.0", 8081, config_source_pb2.ConfigSource())


def test_a_listener_without_pools_keeps_envoys_bodies() -> None:
    assert not manager(plain_listener()).HasField("local_reply_config")


def test_a_second_pass_changes_nothing() -> None:
    once = with_inference_filter(plain_listener(), "picker")
    assert manager(once).local_reply_config.mappers
    assert with_inference_filter(once, "picker") == once


def test_the_users_replies_come_first() -> None:
    """Of several that match, Envoy uses the first."""
    listener = plain_listener()
    changed = manager(listener)
    changed.local_reply_config.mappers.append(USERS)
    listener.filter_chains[0].filters[0].typed_config.CopyFrom(pack_any(changed))
    twice = with_inference_filter(with_inference_filter(listener, "picker"), "picker")
    mappers = manager(twice).local_reply_config.mappers
    assert mappers[0] == USERS
    own = manager(with_inference_filter(plain_listener(), "picker")).local_reply_config.mappers
    assert list(mappers[1:]) == list(own)


def test_only_routes_to_pools_are_marked() -> None:
    routes_to_both = route({"backendRefs": [to_pool("a")]}, {"backendRefs": [to_pool("gone")]})
    made = config(gateway({"name": "llm", "port": 8081}), pool("a"), routes_to_both)
    [configuration] = made.route_configurations
    routes = {made.name: made for host in configuration.virtual_hosts for made in host.routes}
    marked = {name.split("/")[4] for name, made in routes.items() if NAMESPACE in made.metadata.filter_metadata}
    assert marked == {"0"}


def test_the_response_has_the_requests_id() -> None:
    """Envoy Gateway's listeners do not return it."""
    listener = plain_listener()
    changed = manager(listener)
    changed.always_set_request_id_in_response = False
    listener.filter_chains[0].filters[0].typed_config.CopyFrom(pack_any(changed))
    assert manager(with_inference_filter(listener, "picker")).always_set_request_id_in_response
