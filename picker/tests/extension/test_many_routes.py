"""How long Envoy Gateway waits for the extension."""

import time

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.route.v3 import route_components_pb2
from picker.gateway import extension_service_pb2 as service_pb2
from picker.gateway.extension import Extension, RuleBackend, RuleName
from picker.gateway.extension_server import SERVICE, ExtensionServer
from test_extension import JOINTS, RED, TO_RED, Services, as_written, backends, configuration, leads_to, listener, route

ROUTES = 500
MOST_CPU_S = 2.0
"""Twice what it takes, the client's half included, on a core of a machine that does much else."""


class EveryRule:
    """Each leads to the same pool."""

    async def backends(self, rule: RuleName) -> list[RuleBackend]:
        return backends((RED, 1))

    def forget(self) -> None: ...


async def test_five_hundred_routes_take_less_than_a_second() -> None:
    """Asked over gRPC as Envoy Gateway does: for each route, for each rule's cluster, and once for the whole."""
    server = ExtensionServer(Extension(JOINTS), EveryRule(), Services(), "127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            answer, last = await translated(channel)
            took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    finally:
        await server.stop()
    print(f"{ROUTES} routes: {took_s:.2f} s, {cpu_s:.2f} s of a core")
    assert leads_to(last) == {TO_RED: 1}
    # One a rule, and one each for pool and picker.
    assert len(answer.clusters) == ROUTES + 2
    assert cpu_s < MOST_CPU_S


async def translated(
    channel: grpc.aio.Channel,
) -> tuple[service_pb2.PostTranslateModifyResponse, route_components_pb2.Route]:
    """The whole, and the last of the routes."""
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
    pools = [service_pb2.ExtensionResource(unstructured_bytes=as_written())]
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
