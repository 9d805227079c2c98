"""The setting `kv_events_port`, or the first pool that uses KV events, starts the mode. It is not imported before."""

import subprocess
import sys
from random import Random

import pytest
from command_settings import InvalidSettings
from event_server import EventServer, free_port, stored, until
from gateway_objects import pool, resources
from picker.commands.kv_event_start import KvEventStart
from picker.commands.reconcile import Reconciler
from picker.endpoints.datastore import Datastore
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.kv_events.subscriber import PORT_LABEL
from picker.observability.setup import ExtraMissing
from picker.requestcontrol.director import Director
from picker.settings import ServeSettings
from picker.sources.inventory import Inventory, ModelServer
from structlog.testing import capture_logs
from test_reconcile import A, RecordingDirector, RecordingScraper, annotated


def kv_event_start(*arguments: str) -> KvEventStart:
    director = Director(InFlightTracker(), lambda: 0.0, Random(0), unknown_models=True)
    return KvEventStart(ServeSettings.read(list(arguments), "test"), director, lambda _: None)


def test_without_the_setting_the_mode_is_not_imported() -> None:
    optional = {"zmq", "httpx", "picker.commands.kv_events"}
    code = f"import sys, picker.commands.serve; print(*({optional} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
    assert result.stdout.strip() == ""


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picker.commands.kv_events", None)
    with pytest.raises(ExtraMissing, match=r"KV events need the packages of picker\[kv-events\]"):
        kv_event_start("--kv-events-port=5557")


def test_a_pool_that_needs_missing_packages_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picker.commands.kv_events", None)
    mode = kv_event_start()
    with capture_logs() as logs:
        assert mode.start() is None
        assert mode.start() is None
    assert [line["event"] for line in logs] == ["kv_events.unavailable"]


async def test_the_first_pool_starts_the_mode() -> None:
    mode = kv_event_start()
    assert not mode.default
    started = mode.start()
    assert started is not None
    assert mode.start() is started
    await mode.stop()


def test_invalid_port_is_rejected() -> None:
    with pytest.raises(InvalidSettings, match="kv_events_port"):
        ServeSettings.read(["--kv-events-port=70000"], "test")


async def test_an_annotation_starts_and_ends_a_subscription() -> None:
    """Through a real socket, of a picker without the setting."""
    port = free_port()
    labels = {"app": "a", PORT_LABEL: str(port)}
    server = ModelServer("s", "default", "127.0.0.1", None, labels)
    mode = kv_event_start()
    director = RecordingDirector()
    reconciler = Reconciler(Datastore(), RecordingScraper(), director, Random(0), None, mode)
    async with EventServer(port, None) as events:
        reconciler.follow(Inventory(resources(annotated("kv-events", "true")), (server,)))
        await events.subscribed()
        await events.publish(stored(1))
        served = director.pools[A]
        [endpoint] = served.endpoints
        await until(lambda: served.prefixes.reported_blocks(endpoint) == 1)
        reconciler.follow(Inventory(resources(pool("a")), (server,)))
        assert director.pools[A].prefixes.reported_blocks(endpoint) is None
        assert served.prefixes.reported_blocks(endpoint) is None
    await mode.stop()
