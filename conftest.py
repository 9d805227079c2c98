"""Test settings of all packages."""

from collections import Counter

import pytest
from hypothesis import settings

# The time of an example depends more on the machine than on the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints one line with the reasons of all skipped tests."""
    skipped: list[pytest.TestReport | pytest.CollectReport] = terminalreporter.stats.get("skipped", [])
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in skipped if isinstance(report.longrepr, tuple)
    )
    if reasons:
        named = "; ".join(f"{count} ({reason})" for reason, count in sorted(reasons.items()))
        terminalreporter.write_line(f"Skipped tests: {named}")
