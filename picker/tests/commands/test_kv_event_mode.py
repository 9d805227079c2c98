"""The setting switches precise prefixes on, and without it nothing of them is there."""

import subprocess
import sys

import pytest
from picker.commands import serve
from picker.observability.setup import ExtraMissing
from picker.settings import InvalidSettings, ServeSettings


def test_without_the_setting_nothing_of_it_is_imported() -> None:
    optional = {"zmq", "httpx", "picker.commands.kv_events"}
    code = f"import sys, picker.commands.serve; print(*({optional} & sys.modules.keys()))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
    assert ended.stdout.strip() == ""


def test_without_its_packages_the_setting_is_answered_with_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picker.commands.kv_events", None)
    settings = ServeSettings.read(["--kv-events-port=5557"], "test")
    with pytest.raises(ExtraMissing, match=r"kv-events-port needs the packages of picker\[kv-events\]"):
        serve._precise_mode(settings, lambda _: None)


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="kv_events_port"):
        ServeSettings.read(["--kv-events-port=70000"], "test")
