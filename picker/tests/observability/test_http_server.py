"""The limits of the HTTP server, and the pages of each address."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from picker.addresses import split_address
from picker.observability import http_server as module
from picker.observability.admin import admin_app, metrics_app
from picker.observability.http_server import MAX_BODY_BYTES, MAX_CONNECTIONS, MAX_HEADER_BYTES, http_server
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.fixture
def free_address(free_port: int) -> str:
    return f"127.0.0.1:{free_port}"


def public() -> Starlette:
    return metrics_app(lambda: True, CollectorRegistry())


def admin() -> Starlette:
    return admin_app(lambda: True, lambda: (), CollectorRegistry())


@asynccontextmanager
async def serving(app: Starlette, free_address: str) -> AsyncGenerator[tuple[str, int]]:
    async with http_server(free_address, app):
        host, port = split_address(free_address)
        while True:
            try:
                (await asyncio.open_connection(host, port))[1].close()
                break
            except OSError:
                await asyncio.sleep(0.01)
        yield host, port


async def response(address: tuple[str, int], sent: bytes) -> bytes:
    """All bytes that the server sends until the connection ends."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""
    finally:
        writer.close()


GET = b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("path", ["/metrics", "/healthz"])
def test_the_metrics_address_serves_metrics_and_health(path: str) -> None:
    assert TestClient(public()).get(path).status_code == 200


@pytest.mark.parametrize("path", ["/endpoints", "/pools", "/decisions", "/log-level", "/"])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_the_metrics_address_serves_no_other_pages(method: str, path: str) -> None:
    assert TestClient(public()).request(method, path).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/metrics"), ("GET", "/log-level"), ("BREW", "/endpoints"), ("DELETE", "/healthz")]
)
def test_an_unsupported_method_is_a_405(method: str, path: str) -> None:
    assert TestClient(admin()).request(method, path).status_code == 405


@pytest.mark.parametrize("path", ["/log-level", "/metrics", "/nothing"])
async def test_a_large_body_is_rejected_before_it_is_sent(path: str, free_address: str) -> None:
    head = f"PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n"
    async with serving(admin(), free_address) as address:
        assert (await response(address, head.encode())).startswith(b"HTTP/1.1 413 ")


async def test_a_body_without_a_length_is_rejected_before_it_is_sent(free_address: str) -> None:
    head = b"PUT /log-level HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(admin(), free_address) as address:
        assert (await response(address, head)).startswith(b"HTTP/1.1 411 ")


async def test_a_header_beyond_the_bound_ends_the_connection(free_address: str) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: h\r\nX: " + b"x" * (MAX_HEADER_BYTES + (1 << 20)) + b"\r\n\r\n"
    async with serving(public(), free_address) as address:
        assert b" 200 " not in await response(address, head)


async def test_silent_connections_do_not_block_new_ones(free_address: str) -> None:
    async with serving(public(), free_address) as address:
        silent = [await asyncio.open_connection(*address) for _ in range(MAX_CONNECTIONS + 20)]
        assert (await response(address, GET)).startswith(b"HTTP/1.1 200 ")
        ended = [reader for reader, _ in silent if reader.at_eof() or reader.exception() is not None]
        assert len(ended) >= 20
        for _, writer in silent:
            writer.close()


async def test_a_request_that_does_not_end_is_aborted(free_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 0.1)
    async with serving(public(), free_address) as address:
        assert await response(address, GET[:-2]) == b""


async def test_a_peer_that_does_not_read_is_aborted(free_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 0.1)
    ended = asyncio.Event()

    async def endless(_request: Request) -> Response:
        async def pieces() -> AsyncGenerator[bytes]:
            try:
                for _ in range(1000):
                    yield b"x" * (1 << 20)
            finally:
                ended.set()

        return StreamingResponse(pieces())

    async with serving(Starlette(routes=[Route("/healthz", endless)]), free_address) as address:
        _reader, writer = await asyncio.open_connection(*address, limit=1)
        writer.write(GET)
        await asyncio.wait_for(ended.wait(), 20)
        writer.close()


async def test_one_ipv6_address_serves_ipv4_too(free_port: int) -> None:
    async with serving(public(), f"[::]:{free_port}"):
        for host in ("127.0.0.1", "::1"):
            assert (await response((host, free_port), GET)).startswith(b"HTTP/1.1 200 ")
