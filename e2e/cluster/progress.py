"""Progress lines on the terminal while tests run."""

import time

import pytest


def log_progress(config: pytest.Config, message: str) -> None:
    """Writes a line with the time of day to the terminal, unbuffered and not captured by pytest."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if capture is not None and reporter is not None:
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(f"{time.strftime('%H:%M:%S')} {message}", flush=True)
