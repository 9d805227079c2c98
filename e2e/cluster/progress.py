"""What a person who waits wants to know."""

import time

import pytest


def say(config: pytest.Config, what: str) -> None:
    """Past pytest's capture, and at once."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if capture is not None and reporter is not None:
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(f"{time.strftime('%H:%M:%S')} {what}", flush=True)
