"""A real Envoy with one static configuration."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf.json_format import MessageToJson
from picker.commands.standalone.envoy_process import envoy_binary

START_S = 60.0


def free_ports() -> tuple[int, int]:
    """Returns two ports without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        return first.getsockname()[1], second.getsockname()[1]


@contextmanager
def running_envoy(config: bootstrap_pb2.Bootstrap, port: int, admin_port: int, folder: Path) -> Iterator[None]:
    """Runs Envoy with `config`, which listens on `port`, until the block ends."""
    config.admin.address.socket_address.port_value = admin_port
    (folder / "envoy.json").write_text(MessageToJson(config))
    options = ["--use-dynamic-base-id", "--concurrency", "1"]
    command = [envoy_binary(None), "--config-path", folder / "envoy.json", *options]
    with (folder / "log").open("wb") as log:
        envoy = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_until_it_listens(envoy, port, folder / "log")
        yield
    finally:
        envoy.terminate()
        envoy.wait()


def _wait_until_it_listens(envoy: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        assert envoy.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError(log.read_text())
