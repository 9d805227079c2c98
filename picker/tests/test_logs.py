"""Logging of the picker."""

import logging
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import httpx2
import pytest
from picker.logs import LEVELS, Level, set_level


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def _restored_level() -> Iterator[None]:
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.mark.parametrize("level", LEVELS)
def test_requests_of_the_http_clients_are_not_logged(level: Level, url: str, caplog: pytest.LogCaptureFixture) -> None:
    set_level(level)
    for client in (httpx.Client(trust_env=False), httpx2.Client(trust_env=False)):
        with client:
            assert client.get(url).status_code == 204
    assert [record.getMessage() for record in caplog.records] == []
