"""The setting `kv_events_port` enables the KV-event mode; without it nothing of the mode is imported."""

import subprocess
import sys

import pytest
from command_settings import InvalidSettings
from picker.commands import serve
from picker.observability.setup import ExtraMissing
from picker.settings import ServeSettings


def test_without_the_setting_the_mode_is_not_imported() -> None:
    optional = {"zmq", "httpx", "picker.commands.kv_events"}
    code = f"import sys, picker.commands.serve; print(*({optional} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
    assert result.stdout.strip() == ""


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picker.commands.kv_events", None)
    settings = ServeSettings.read(["--kv-events-port=5557"], "test")
    with pytest.raises(ExtraMissing, match=r"kv-events-port needs the packages of picker\[kv-events\]"):
        serve._kv_event_mode(settings, lambda _: None)


def test_invalid_port_is_rejected() -> None:
    with pytest.raises(InvalidSettings, match="kv_events_port"):
        ServeSettings.read(["--kv-events-port=70000"], "test")
