"""The gRPC server over sockets: grpcio's client, health checks, TLS and drain."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import grpc
import pytest
import structlog
import trustme
from exchange_conversation import FakeDirector
from grpc_health.v1 import health_pb2
from picker.extproc import server as server_module
from picker.extproc.exchange import Exchange, Limits
from picker.extproc.server import ExtProcServer
from picker.extproc.stream import PROCESS
from picker.grpc_server.tls import CertificatesUnusable, TlsFiles
from picker.protocol import EXT_PROC_SERVICE
from wire_messages import body_message, headers_message

BODY = b'{"model": "m"}'
HealthStatus = health_pb2.HealthCheckResponse


def new_server(director: FakeDirector, tls: TlsFiles | None = None) -> ExtProcServer:
    return ExtProcServer(lambda: Exchange(director, Limits(64 << 20)), "127.0.0.1:0", "127.0.0.1:0", tls)


@pytest.fixture
def director() -> FakeDirector:
    return FakeDirector()


@pytest.fixture
async def server(director: FakeDirector) -> AsyncGenerator[ExtProcServer]:
    server = new_server(director)
    await server.start()
    yield server
    await server.drain(0)


@pytest.fixture
async def channel(server: ExtProcServer) -> AsyncGenerator[grpc.aio.Channel]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        yield channel


def process(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[bytes, bytes]:
    return channel.stream_stream(PROCESS)()


async def check(channel: grpc.aio.Channel, service: str = "") -> int:
    method = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=HealthStatus.FromString,
    )
    return (await method(health_pb2.HealthCheckRequest(service=service), timeout=10)).status


def watch(channel: grpc.aio.Channel, service: str = "") -> AsyncIterator[int]:
    method = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=HealthStatus.FromString,
    )
    call = method(health_pb2.HealthCheckRequest(service=service))
    return (response.status async for response in call)


async def until(condition: AsyncIterator[bool]) -> None:
    async with asyncio.timeout(10):
        async for holds in condition:
            if holds:
                return
            await asyncio.sleep(0.01)


async def test_an_exchange_with_grpcios_client_ends_with_ok(channel: grpc.aio.Channel, director: FakeDirector) -> None:
    call = process(channel)
    await call.write(headers_message())
    assert await call.read()
    await call.write(body_message(BODY))
    assert await call.read()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    assert len(director.ends) == 1


async def test_a_full_duplex_body_of_15_mib_is_returned_whole(channel: grpc.aio.Channel) -> None:
    call = process(channel)
    await call.write(headers_message(mode="FULL_DUPLEX_STREAMED"))
    body = b'{"model": "m", "prompt": "' + b"x" * (15 << 20) + b'"}'
    await call.write(body_message(body))
    size = 0
    while size < len(body):
        reply = await call.read()
        assert isinstance(reply, bytes)
        size += len(reply)
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK


async def test_a_hundred_calls_at_once_are_served(channel: grpc.aio.Channel, director: FakeDirector) -> None:

    async def exchange() -> grpc.aio.StreamStreamCall[bytes, bytes]:
        call = process(channel)
        for message in (headers_message(), body_message(BODY)):
            await call.write(message)
            await call.read()
        return call

    calls = await asyncio.gather(*(exchange() for _ in range(100)))
    assert len(director.requests) == 100
    for call in calls:
        call.cancel()

    async def ended() -> AsyncIterator[bool]:
        while True:
            yield len(director.ends) == 100

    await until(ended())


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await channel.unary_unary("/unknown.Service/Method")(b"")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.value.details() == "unknown method /unknown.Service/Method"


async def test_compressed_calls_are_unimplemented(channel: grpc.aio.Channel) -> None:
    call = channel.stream_stream(PROCESS)(compression=grpc.Compression.Gzip)
    assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("own_port", [True, False])
async def test_health_checks_report_readiness_and_liveness(server: ExtProcServer, own_port: bool) -> None:
    """On both ports. An unknown service is NOT_FOUND."""
    port = server.health_port if own_port else server.port
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        names = ("", "readiness", "liveness", EXT_PROC_SERVICE)

        async def statuses() -> list[int]:
            return [await check(channel, name) for name in names]

        assert await statuses() == [
            HealthStatus.NOT_SERVING,
            HealthStatus.NOT_SERVING,
            HealthStatus.SERVING,
            HealthStatus.NOT_SERVING,
        ]
        await server.ready(True)
        assert await statuses() == [HealthStatus.SERVING] * 4
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await check(channel, "unknown")
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_health_watch_reports_each_change(server: ExtProcServer, channel: grpc.aio.Channel) -> None:
    """It reports the status at once, and a drain ends it."""
    watching, unknown = watch(channel), watch(channel, "unknown")
    assert await anext(watching) == HealthStatus.NOT_SERVING
    assert await anext(unknown) == HealthStatus.SERVICE_UNKNOWN
    await server.ready(True)
    await server.ready(True)
    assert await anext(watching) == HealthStatus.SERVING
    draining = asyncio.create_task(server.drain(10))
    assert await anext(watching) == HealthStatus.NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(watching)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    await draining


async def test_a_drain_ends_each_call_after_its_pick(server: ExtProcServer, channel: grpc.aio.Channel) -> None:
    """The settled call ends with OK at once, the other one after its pick. Then the drain is complete."""
    settled, waiting = process(channel), process(channel)
    for call in (settled, waiting):
        await call.write(headers_message())
        await call.read()
    await settled.write(body_message(BODY))
    await settled.read()
    draining = asyncio.create_task(server.drain(30))
    assert await settled.code() is grpc.StatusCode.OK
    assert not draining.done()
    await waiting.write(body_message(BODY))
    assert await waiting.read()
    assert await waiting.code() is grpc.StatusCode.OK
    await asyncio.wait_for(draining, 10)
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_a_drain_resets_calls_after_its_grace_period(
    server: ExtProcServer, channel: grpc.aio.Channel, director: FakeDirector
) -> None:
    """The body of the call does not arrive."""
    call = process(channel)
    await call.write(headers_message())
    await call.read()
    await asyncio.wait_for(server.drain(0.2), 5)
    assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert director.requests == []


async def test_probes_are_answered_while_draining(server: ExtProcServer, channel: grpc.aio.Channel) -> None:
    """Alive and not ready."""
    call = process(channel)
    await call.write(headers_message())
    await call.read()
    await server.ready(True)
    draining = asyncio.create_task(server.drain(10))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.health_port}") as probing:
        assert await check(probing, "liveness") == HealthStatus.SERVING
        assert await check(probing, "readiness") == HealthStatus.NOT_SERVING
    call.cancel()
    await draining


def test_an_address_in_use_is_an_error_of_the_constructor(director: FakeDirector) -> None:
    first = new_server(director)
    with pytest.raises(OSError, match="in use"):
        ExtProcServer(lambda: Exchange(director, Limits()), f"127.0.0.1:{first.port}")


async def test_an_error_reaches_a_peer_that_continues_to_send(server: ExtProcServer) -> None:
    """A reset of the connection would discard it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n" * 5_000)
    received = await reader.read()
    assert b"expected HTTP/2 with prior knowledge" in received
    writer.close()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def written(
    folder: Path, authority: trustme.CA, name: str = "localhost", client_ca: trustme.CA | None = None
) -> TlsFiles:
    """Writes files with a certificate for `name`. A rename replaces existing files, as in a volume of a Secret."""
    issued = authority.issue_cert(name)
    files = TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt" if client_ca else None)
    for path, content in (
        (files.certificate, issued.cert_chain_pems[0].bytes()),
        (files.key, issued.private_key_pem.bytes()),
        (folder / "ca.crt", (client_ca or authority).cert_pem.bytes()),
    ):
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.rename(path)
    return files


def credentials(authority: trustme.CA, own: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(),
        own.private_key_pem.bytes() if own else None,
        own.cert_chain_pems[0].bytes() if own else None,
    )


async def checked(port: int, trusted: grpc.ChannelCredentials) -> int:
    async with grpc.aio.secure_channel(f"localhost:{port}", trusted) as channel:
        return await check(channel, "liveness")


async def test_tls_selects_http2_by_alpn(tmp_path: Path, authority: trustme.CA, director: FakeDirector) -> None:
    """grpcio requires it. The health port has no TLS."""
    server = new_server(director, written(tmp_path, authority))
    await server.start()
    assert await checked(server.port, credentials(authority)) == HealthStatus.SERVING
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["http/1.1", "h2"])
    _, writer = await asyncio.open_connection("localhost", server.port, ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    writer.close()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.health_port}") as channel:
        assert await check(channel, "liveness") == HealthStatus.SERVING
    await server.drain(0)


async def test_only_clients_with_a_certificate_of_the_client_ca_connect(
    tmp_path: Path, authority: trustme.CA, director: FakeDirector
) -> None:
    clients = trustme.CA()
    server = new_server(director, written(tmp_path, authority, client_ca=clients))
    await server.start()
    assert await checked(server.port, credentials(authority, clients.issue_cert("envoy"))) == HealthStatus.SERVING
    for own in (None, trustme.CA().issue_cert("envoy")):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await checked(server.port, credentials(authority, own))
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    await server.drain(0)


async def test_changed_certificates_are_used_for_new_connections(
    tmp_path: Path, authority: trustme.CA, director: FakeDirector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open calls continue. Files that do not match change nothing."""
    monkeypatch.setattr(server_module, "CHECK_S", 0.05)
    files = written(tmp_path, authority)
    server = new_server(director, files)
    await server.start()
    channel = grpc.aio.secure_channel(f"localhost:{server.port}", credentials(authority))
    call = process(channel)
    await call.write(headers_message())
    await call.read()
    whole = files.certificate.read_bytes()
    with structlog.testing.capture_logs() as logs:

        async def warned() -> AsyncIterator[bool]:
            while True:
                yield [line["event"] for line in logs] == ["grpc_server.certificates_unusable"]

        files.certificate.write_text("half a certific")
        await until(warned())
    assert await checked(server.port, credentials(authority)) == HealthStatus.SERVING
    files.certificate.write_bytes(whole)
    successor = trustme.CA()
    written(tmp_path, successor)

    async def shown() -> AsyncIterator[bool]:
        while True:
            try:
                yield await checked(server.port, credentials(successor)) == HealthStatus.SERVING
            except grpc.aio.AioRpcError:
                yield False

    await until(shown())
    await call.write(body_message(BODY))
    assert await call.read()
    await channel.close()
    await server.drain(0)


def test_missing_certificate_files_are_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(CertificatesUnusable, match=r"absent\.crt"):
        TlsFiles(tmp_path / "absent.crt", tmp_path / "absent.key").context()
