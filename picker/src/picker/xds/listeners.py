"""Envoy's listeners, and the insertion of the ext_proc filter."""

from collections.abc import Callable, Sequence

from envoy.config.core.v3 import config_source_pb2, protocol_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.wrappers_pb2 import BoolValue

from picker.xds.ext_proc_filter import inference_filter
from picker.xds.local_replies import add_error_bodies
from picker.xds.picker_failures import with_picker_failures
from picker.xds.protobuf import address, duration, pack_any, uint32

ROUTER_NAME = "envoy.filters.http.router"
HCM_NAME = "envoy.filters.network.http_connection_manager"

LISTENER_BUFFER_BYTES = 32 << 10
"""Envoy Gateway's `per_connection_buffer_limit_bytes`. Routes to a pool have their own limit."""

REQUEST_HEADERS_TIMEOUT_S = 10.0
"""Limit for a request's headers to arrive, so that slow clients cannot hold connections. The picker limits bodies, the
route's timeout limits responses."""

_Hcm = hcm_pb2.HttpConnectionManager


def http_listener(name: str, ip: str, port: int, routes: config_source_pb2.ConfigSource) -> listener_pb2.Listener:
    """Returns a plain HTTP listener (HTTP/1.1, and HTTP/2 with prior knowledge). Its route configuration has the
    listener's name and comes from `routes`."""
    router = router_pb2.Router(suppress_envoy_headers=True)
    manager = _Hcm(
        codec_type=_Hcm.AUTO,
        stat_prefix=name,
        rds=hcm_pb2.Rds(route_config_name=name, config_source=routes),
        http_filters=[hcm_pb2.HttpFilter(name=ROUTER_NAME, typed_config=pack_any(router))],
        # The `server` header is the model server's; Envoy reports on itself in its statistics.
        server_header_transformation=_Hcm.PASS_THROUGH,
        use_remote_address=BoolValue(value=True),
        # Logs name the id that the client sent.
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        normalize_path=BoolValue(value=True),
        merge_slashes=True,
        path_with_escaped_slashes_action=_Hcm.UNESCAPE_AND_REDIRECT,
        request_headers_timeout=duration(REQUEST_HEADERS_TIMEOUT_S),
        # A stream is silent while a model server queues or computes a long prompt. The route's timeout limits it.
        stream_idle_timeout=duration(0),
        http2_protocol_options=protocol_pb2.Http2ProtocolOptions(),
        # As Envoy Gateway allows it on every HTTPRoute: model servers use it for /v1/realtime.
        upgrade_configs=[_Hcm.UpgradeConfig(upgrade_type="websocket")],
    )
    filters = [listener_components_pb2.Filter(name=HCM_NAME, typed_config=pack_any(manager))]
    return listener_pb2.Listener(
        name=name,
        address=address(ip, port),
        per_connection_buffer_limit_bytes=uint32(LISTENER_BUFFER_BYTES),
        filter_chains=[listener_components_pb2.FilterChain(filters=filters)],
    )


def with_inference_filter(listener: listener_pb2.Listener, picker_cluster: str) -> listener_pb2.Listener:
    """Returns `listener` with the ext_proc filter of this project's pickers."""
    return with_filters(listener, [inference_filter(picker_cluster)])


def with_filters(listener: listener_pb2.Listener, filters: Sequence[hcm_pb2.HttpFilter]) -> listener_pb2.Listener:
    """Returns `listener` for routes to pools, in every HTTP filter chain: with `filters` before the router, OpenAI's
    error format for Envoy's own responses, and the request's id in responses. Existing filters of their names are
    replaced, so that the function is idempotent."""
    return with_managers(listener, lambda manager: _insert(manager, filters))


def with_managers(listener: listener_pb2.Listener, change: Callable[[_Hcm], None]) -> listener_pb2.Listener:
    """Returns `listener` with `change` applied to the connection manager of every HTTP filter chain."""
    made = listener_pb2.Listener()
    made.CopyFrom(listener)
    chains = list(made.filter_chains)
    if made.HasField("default_filter_chain"):
        chains.append(made.default_filter_chain)
    for chain in chains:
        for network_filter in chain.filters:
            if network_filter.typed_config.Is(_Hcm.DESCRIPTOR):
                manager = _Hcm.FromString(network_filter.typed_config.value)
                change(manager)
                network_filter.typed_config.CopyFrom(pack_any(manager))
    return made


def _insert(manager: hcm_pb2.HttpConnectionManager, new: Sequence[hcm_pb2.HttpFilter]) -> None:
    """Inserts `new` before the router, which is always the last filter, and the responses for failed pickers."""
    mappers = with_picker_failures(manager.local_reply_config.mappers)
    del manager.local_reply_config.mappers[:]
    manager.local_reply_config.mappers.extend(mappers)
    add_error_bodies(manager)
    # `picker explain` and the logs find a request by it.
    manager.always_set_request_id_in_response = True
    names = {http_filter.name for http_filter in new}
    others = [other for other in manager.http_filters if other.name not in names]
    del manager.http_filters[:]
    manager.http_filters.extend([*others[:-1], *new, *others[-1:]])
