"""The picker behind an Envoy with the filters of other gateways: full duplex, TLS without a client certificate."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import yaml
from composed_envoy import running_envoy, with_endpoints
from e2e.processes import free_ports
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import grpc_service_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2, processing_mode_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.load_balancing_policies.least_request.v3 import least_request_pb2  # noqa: F401
from envoy.extensions.load_balancing_policies.override_host.v3 import override_host_pb2  # noqa: F401
from gateway_parts import model, pool, route, to_pool
from google.protobuf.json_format import ParseDict
from picker.commands.serve import Picker
from picker.controller.certificates import issue, new_authority
from picker.protocol import DESTINATION, LB_NAMESPACE
from picker.resources.names import ObjectName
from picker.settings import ServeSettings
from picker.sources.folder import FolderSource
from picker.xds.clusters import eds_picker_cluster
from picker.xds.config_source import file_source
from picker.xds.listeners import http_listener, with_filters
from picker.xds.picker_ref import PickerName
from picker.xds.picker_tls import unverified_socket
from picker.xds.protobuf import duration, pack_any
from upstream import Upstream
from waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PICKER = PickerName(ObjectName("default", "picker"), 9002)
OVERRIDE_HOST, ORIGINAL_DST = "override-host", "original-dst"
_Mode = processing_mode_pb2.ProcessingMode


def istio_filter() -> hcm_pb2.HttpFilter:
    """The filter that Istio 1.30 builds for an InferencePool. It names no pool to the picker."""
    cluster = grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=str(PICKER))
    namespaces = ext_proc_pb2.MetadataOptions.MetadataNamespaces(untyped=[LB_NAMESPACE])
    processor = ext_proc_pb2.ExternalProcessor(
        grpc_service=grpc_service_pb2.GrpcService(envoy_grpc=cluster, timeout=duration(10)),
        processing_mode=_Mode(
            request_header_mode=_Mode.SEND,
            request_body_mode=_Mode.FULL_DUPLEX_STREAMED,
            request_trailer_mode=_Mode.SEND,
            response_header_mode=_Mode.SEND,
            response_body_mode=_Mode.FULL_DUPLEX_STREAMED,
            response_trailer_mode=_Mode.SEND,
        ),
        message_timeout=duration(1000),
        metadata_options=ext_proc_pb2.MetadataOptions(
            receiving_namespaces=namespaces, forwarding_namespaces=namespaces
        ),
    )
    return hcm_pb2.HttpFilter(name="envoy.filters.http.ext_proc", typed_config=pack_any(processor))


def override_host_cluster(*ports: int) -> cluster_pb2.Cluster:
    """The endpoints of the pool; the picker's header and metadata override the balancer."""
    key = {"key": LB_NAMESPACE, "path": [{"key": DESTINATION}]}
    policy = {
        "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
        "override_host_sources": [{"header": DESTINATION}, {"metadata": key}],
        "fallback_policy": {"policies": [_balancer("least_request.v3.LeastRequest")]},
    }
    cluster = ParseDict(
        {
            "name": OVERRIDE_HOST,
            "connect_timeout": "1s",
            "load_balancing_policy": {
                "policies": [
                    {
                        "typed_extension_config": {
                            "name": "envoy.load_balancing_policies.override_host", "typed_config": policy
                        }
                    }
                ]
            },
        },
        cluster_pb2.Cluster(),
    )  # fmt: skip
    return with_endpoints(cluster, *ports)


def _balancer(kind: str) -> dict[str, object]:
    type_url = f"type.googleapis.com/envoy.extensions.load_balancing_policies.{kind}"
    name = f"envoy.load_balancing_policies.{kind.partition('.')[0]}"
    return {"typed_extension_config": {"name": name, "typed_config": {"@type": type_url}}}


def original_dst_cluster() -> cluster_pb2.Cluster:
    """Connects to the address in the picker's header, as upstream's standalone Envoy and kgateway do."""
    return ParseDict(
        {
            "name": ORIGINAL_DST,
            "type": "ORIGINAL_DST",
            "connect_timeout": "1s",
            "lb_policy": "CLUSTER_PROVIDED",
            "original_dst_lb_config": {"use_http_header": True, "http_header_name": DESTINATION},
        },
        cluster_pb2.Cluster(),
    )


@dataclass(frozen=True)
class OtherGateway:
    client: httpx.AsyncClient
    port: int
    picker: Picker
    upstreams: tuple[Upstream, ...]
    """The pool's, and one that is no endpoint of it."""

    async def post(self, content: bytes, **headers: str) -> httpx.Response:
        return await self.client.post(f"http://127.0.0.1:{self.port}/v1/completions", content=content, headers=headers)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[OVERRIDE_HOST, ORIGINAL_DST])
async def gateway(request: pytest.FixtureRequest) -> AsyncIterator[OtherGateway]:
    """A gateway with each kind of cluster."""
    cluster_name: str = request.param
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstreams = [await stack.enter_async_context(Upstream(name)) for name in "ab"]
        outsider = await stack.enter_async_context(Upstream("outsider"))
        port, picker_port, *others = free_ports(5)
        picker = Picker(_settings(folder, cluster_name, picker_port, others, upstreams), _source(folder))
        stop = asyncio.Event()
        serving = asyncio.create_task(picker.run(stop))
        stack.push_async_callback(_stop, stop, serving)
        await until(lambda: serving.done() or picker.ready, "the picker is ready")
        picker_cluster = with_endpoints(eds_picker_cluster(PICKER, "127.0.0.1:1"), picker_port)
        # Istio's DestinationRule with mode SIMPLE and insecureSkipVerify.
        del picker_cluster.transport_socket_matches[:]
        picker_cluster.transport_socket.CopyFrom(unverified_socket())
        host = route_components_pb2.VirtualHost(name="all", domains=["*"])
        made = host.routes.add()
        made.match.prefix = "/"
        made.route.cluster = cluster_name
        ports = [each.port for each in upstreams]
        destination = override_host_cluster(*ports) if cluster_name == OVERRIDE_HOST else original_dst_cluster()
        clusters = [picker_cluster, destination]
        listener = with_filters(
            http_listener("http", "127.0.0.1", port, file_source(folder / "unused")), [istio_filter()]
        )
        routes = route_pb2.RouteConfiguration(name="http", virtual_hosts=[host])
        await stack.enter_async_context(running_envoy(listener, routes, clusters, folder))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=20.0))
        yield OtherGateway(client, port, picker, (*upstreams, outsider))


def _settings(folder: Path, cluster: str, port: int, others: list[int], upstreams: list[Upstream]) -> ServeSettings:
    authority = new_authority(datetime.now(UTC))
    pair = issue(authority, "picker", ["picker.default.svc"], datetime.now(UTC))
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key)
    rule = {"backendRefs": [to_pool("main")]}
    manifests = [pool("main"), model("requested/model", "main", served=1), route("main", "main", rule)]
    (folder / "m").mkdir()
    (folder / "m" / "all.yaml").write_text(yaml.safe_dump_all(manifests))
    servers = [
        {"name": each.name, "address": each.host, "port": each.port, "labels": {"pool": "main"}} for each in upstreams
    ]
    (folder / "endpoints.yaml").write_text(yaml.safe_dump({"endpoints": servers}))
    addresses = dict(zip(("health", "xds", "admin"), others, strict=True))
    flags = [f"--{name}-address=127.0.0.1:{number}" for name, number in {"ext-proc": port, **addresses}.items()]
    files = [f"--manifests={folder / 'm'}", f"--endpoints={folder / 'endpoints.yaml'}"]
    tls = [f"--tls-certificate={folder / 'tls.crt'}", f"--tls-key={folder / 'tls.key'}"]
    only_best = ["--only-best-endpoint"] if cluster == ORIGINAL_DST else []
    return ServeSettings.read([*files, *flags, *tls, *only_best], "test")


def _source(folder: Path) -> FolderSource:
    return FolderSource(folder / "m", folder / "endpoints.yaml")


async def _stop(stop: asyncio.Event, serving: "asyncio.Task[None]") -> None:
    stop.set()
    await serving


@pytest.mark.parametrize("size", [100, 200_000])
async def test_a_body_passes_complete(gateway: OtherGateway, size: int) -> None:
    body = b'{"model": "m", "prompt": "' + b"x" * size + b'"}'
    answer = await gateway.post(body, **{"x-behave": "echo"})
    assert (answer.status_code, answer.content == body) == (200, True)


async def test_a_model_is_renamed_in_both_directions(gateway: OtherGateway) -> None:
    answer = await gateway.post(b'{"model": "requested/model"}')
    assert answer.json()["model"] == "requested/model"
    assert b'{"model": "served"}' in {sent.body for upstream in gateway.upstreams for sent in upstream.received}


async def test_a_streamed_response_passes(gateway: OtherGateway) -> None:
    answer = await gateway.post(b'{"model": "m"}', **{"x-behave": "stream"})
    assert answer.text.count("data: ") == 3


async def test_a_client_cannot_choose_its_endpoint(gateway: OtherGateway) -> None:
    outsider = gateway.upstreams[-1]
    answer = await gateway.post(b'{"model": "m"}', **{DESTINATION: outsider.address})
    assert (answer.status_code, answer.json()["served_by"] in "ab", outsider.received) == (200, True, [])


async def test_no_request_stays_in_flight(gateway: OtherGateway) -> None:
    await gateway.post(b'{"model": "m"}')
    await until(lambda: gateway.picker.tracker.total.requests == 0, "no request is in flight")


async def test_a_request_without_a_body_is_served(gateway: OtherGateway) -> None:
    answer = await gateway.client.get(f"http://127.0.0.1:{gateway.port}/v1/models")
    assert answer.status_code == 200


async def test_a_rejection_has_its_reason(gateway: OtherGateway) -> None:
    answer = await gateway.post(b"hello")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "body-not-json")
