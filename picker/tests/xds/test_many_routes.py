"""How long Envoy Gateway waits for the extension."""

import statistics
import time
from collections.abc import Sequence

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.route.v3 import route_components_pb2
from picker.xds import extension_service_pb2 as service_pb2
from picker.xds.extension import Extension, RuleBackend, RuleName
from picker.xds.extension_server import SERVICE, ExtensionServer
from test_extension import JOINTS, RED, TO_RED, Services, as_written, backends, configuration, leads_to, listener, route

ROUTES = 500
MOST_BESIDE_BARE = 2.5
"""Times what asking and answering take where there is nothing to do: 0.7 s of a core, in a test that does both. At 1.4
times that the routes take a second, of which 0.3 s are ours."""


class EveryRule:
    """Each leads to the same pool."""

    async def backends(self, rule: RuleName) -> list[RuleBackend]:
        return backends((RED, 1))

    def forget(self) -> None: ...


async def test_five_hundred_routes_take_little_more_than_the_asking() -> None:
    """Asked over gRPC as Envoy Gateway does: for each route, for each rule's cluster, and once for the whole. Beside as
    many routes that lead to no pool, in turns, on whatever machine."""
    server = ExtensionServer(Extension(JOINTS), EveryRule(), Services(), "127.0.0.1:0")
    await server.start()
    cpu_s: dict[str, list[float]] = {"pools": [], "bare": []}
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            for _ in range(2):
                for name, pools in (("pools", [as_written()]), ("bare", [])):
                    began_s = time.process_time()
                    answer, last = await translated(channel, pools)
                    cpu_s[name].append(time.process_time() - began_s)
                    # One a rule, and one each for pool and picker.
                    assert len(answer.clusters) == ROUTES + 2 * len(pools)
                    assert not pools or leads_to(last) == {TO_RED: 1}
    finally:
        await server.stop()
    ratio = statistics.median(mine / its for mine, its in zip(cpu_s["pools"], cpu_s["bare"], strict=True))
    print(f"{ROUTES} routes: {statistics.median(cpu_s['pools']):.2f} s of a core, {ratio:.2f} times the asking alone")
    assert ratio < MOST_BESIDE_BARE


async def translated(
    channel: grpc.aio.Channel, written: Sequence[bytes]
) -> tuple[service_pb2.PostTranslateModifyResponse, route_components_pb2.Route]:
    """The whole, and the last of the routes. `written`: the pools that each leads to."""
    modify_route = channel.unary_unary(
        f"/{SERVICE}/PostRouteModify",
        request_serializer=service_pb2.PostRouteModifyRequest.SerializeToString,
        response_deserializer=service_pb2.PostRouteModifyResponse.FromString,
    )
    modify_cluster = channel.unary_unary(
        f"/{SERVICE}/PostClusterModify",
        request_serializer=service_pb2.PostClusterModifyRequest.SerializeToString,
        response_deserializer=service_pb2.PostClusterModifyResponse.FromString,
    )
    modify_translation = channel.unary_unary(
        f"/{SERVICE}/PostTranslateModify",
        request_serializer=service_pb2.PostTranslateModifyRequest.SerializeToString,
        response_deserializer=service_pb2.PostTranslateModifyResponse.FromString,
    )
    pools = [service_pb2.ExtensionResource(unstructured_bytes=each) for each in written]
    of_route = service_pb2.PostRouteExtensionContext(extension_resources=pools)
    of_cluster = service_pb2.PostClusterExtensionContext(backend_extension_resources=pools)
    routes: list[route_components_pb2.Route] = []
    clusters: list[bytes] = []
    for number in range(ROUTES):
        rule = f"httproute/default/chat-{number}/rule/0"
        given = route((rule, 1)).SerializeToString()
        made = await modify_route(service_pb2.PostRouteModifyRequest(route=given, post_route_context=of_route))
        routes.append(route_components_pb2.Route.FromString(made.route))
        given = cluster_pb2.Cluster(name=rule).SerializeToString()
        made = await modify_cluster(
            service_pb2.PostClusterModifyRequest(cluster=given, post_cluster_context=of_cluster)
        )
        clusters.append(made.cluster)
    request = service_pb2.PostTranslateModifyRequest(
        clusters=clusters,
        listeners=[listener("llm").SerializeToString()],
        routes=[configuration("llm", *routes).SerializeToString()],
    )
    return await modify_translation(request), routes[-1]
