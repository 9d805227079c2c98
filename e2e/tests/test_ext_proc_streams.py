"""The picker's gRPC server with clients that violate the ext_proc protocol or are not Envoy."""

from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
import pytest_asyncio
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from gateway_parts import V1ALPHA2, GatewayParts, pool, route, to_pool
from grpc_health.v1 import health_pb2
from upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

POOL = (("x-inference-pool", f"{V1ALPHA2}/default/main"),)
OPTIONS = (("grpc.max_send_message_length", 64 << 20), ("grpc.max_receive_message_length", 64 << 20))
_Modes = processing_mode_pb2.ProcessingMode


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[GatewayParts]:
    manifests = [pool("main"), pool("other"), route("main", "main", {"backendRefs": [to_pool("main")]})]
    async with GatewayParts({"main": [Upstream("a"), Upstream("b")]}, ["main"], manifests) as parts:
        yield parts


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: GatewayParts) -> AsyncIterator[GatewayParts]:
    yield running
    await running.nothing_in_flight()
    # The next client is served after every case.
    assert destination((await talk(running, headers("GET", end=True)))[0])


def headers(
    method: str = "POST", *, end: bool = False, mode: str = "BUFFERED", subset: str | list[str] | None = None
) -> pb.ProcessingRequest:
    fields = {":method": method, ":path": "/v1/completions"}
    request = pb.ProcessingRequest(
        request_headers=pb.HttpHeaders(
            headers=base_pb2.HeaderMap(
                headers=[base_pb2.HeaderValue(key=key, raw_value=value.encode()) for key, value in fields.items()]
            ),
            end_of_stream=end,
        ),
        protocol_config=pb.ProtocolConfiguration(request_body_mode=_Modes.BodySendMode.Value(mode)),
    )
    if subset is not None:
        hint = request.metadata_context.filter_metadata["envoy.lb.subset_hint"]
        hint["x-gateway-destination-endpoint-subset"] = subset  # pyright: ignore[reportArgumentType]
    return request


def body(data: bytes = b'{"model": "m"}', *, end: bool = True) -> pb.ProcessingRequest:
    return pb.ProcessingRequest(request_body=pb.HttpBody(body=data, end_of_stream=end))


def destination(response: pb.ProcessingResponse) -> str:
    return response.dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint"]  # pyright: ignore


async def talk(
    gateway: GatewayParts, *messages: pb.ProcessingRequest | bytes, metadata: Sequence[tuple[str, str]] = POOL
) -> list[pb.ProcessingResponse]:
    """Sends all `messages`, and reads the replies to the end. Raises grpc.aio.AioRpcError."""
    async with grpc.aio.insecure_channel(gateway.settings.ext_proc_address, options=OPTIONS) as channel:
        process = channel.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Process")

        async def sent() -> AsyncIterator[bytes]:
            for message in messages:
                yield message if isinstance(message, bytes) else message.SerializeToString()

        call = process(sent(), metadata=metadata)
        return [pb.ProcessingResponse.FromString(data) async for data in call]


@pytest.mark.parametrize(
    "messages",
    [
        [b"\xff\xff\xff"],
        [pb.ProcessingRequest()],
        [body()],
        [headers(), headers()],
        [headers(), body(), headers()],
        [pb.ProcessingRequest(response_headers=pb.HttpHeaders())],
        [headers(), pb.ProcessingRequest(response_body=pb.HttpBody(body=b"x"))],
        [headers(mode="FULL_DUPLEX_STREAMED"), body(), body(b"more")],
    ],
    ids=["no protobuf", "empty", "body first", "headers twice", "headers after the body", "response first",
         "response before the body", "body after its end"],
)  # fmt: skip
async def test_a_protocol_violation_ends_the_stream(
    gateway: GatewayParts, messages: list[pb.ProcessingRequest | bytes]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await talk(gateway, *messages)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_repeated_end_of_the_body_is_ignored(gateway: GatewayParts) -> None:
    answers = await talk(gateway, headers(mode="FULL_DUPLEX_STREAMED"), body(), body(b""))
    assert [answer.WhichOneof("response") for answer in answers] == ["request_headers", "request_body"]


async def test_a_stream_that_ends_before_its_body_is_closed(gateway: GatewayParts) -> None:
    assert len(await talk(gateway, headers())) == 1


async def test_a_body_of_fifteen_mib_in_one_message_is_accepted(gateway: GatewayParts) -> None:
    data = b'{"model": "m", "prompt": "' + b"x" * (15 << 20) + b'"}'
    answers = await talk(gateway, headers(), body(data))
    assert destination(answers[1])


async def test_a_subset_hint_limits_the_choice(gateway: GatewayParts) -> None:
    only = gateway.all_upstreams[1].address
    for hint in ([only], only):
        [answer] = await talk(gateway, headers("GET", end=True, subset=hint))
        assert destination(answer) == only


async def test_an_empty_subset_gets_503(gateway: GatewayParts) -> None:
    for hint in ([], ["10.0.0.1:1"]):
        [answer] = await talk(gateway, headers("GET", end=True, subset=hint))
        assert answer.immediate_response.status.code == 503
        assert b"subset-empty" in answer.immediate_response.body


async def test_without_a_pool_name_the_only_routed_pool_is_used(gateway: GatewayParts) -> None:
    [answer] = await talk(gateway, headers("GET", end=True), metadata=())
    assert destination(answer)


async def test_an_unknown_pool_gets_503(gateway: GatewayParts) -> None:
    [answer] = await talk(gateway, headers("GET", end=True), metadata=(("x-inference-pool", "a/b/c"),))
    assert answer.immediate_response.status.code == 503
    assert b"pool-unknown" in answer.immediate_response.body


async def test_health_is_served_on_both_ports(gateway: GatewayParts) -> None:
    for address in (gateway.settings.ext_proc_address, gateway.settings.health_address):
        async with grpc.aio.insecure_channel(address) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            for service in ("", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor"):
                answer = await check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
