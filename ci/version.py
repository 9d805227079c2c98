"""Checks and sets the project's version. Its source is `appVersion` of the chart; other places repeat it.

`python ci/version.py` prints a line for each place that differs, and exits 1 if there is one.
`python ci/version.py X.Y.Z` writes the version to all places.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHART = Path("charts/inference-gateway/Chart.yaml")
VERSION = r"(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)"
_CHART_LINES = (rf"^(?:version|appVersion): {VERSION}$", rf"^  - name: crds\n    version: {VERSION}$")
_PACKAGES = ("picker", "command-settings", "vllm-mock", "e2e", "benchmark", "nightly", "observability", "simulator")
_LOCKED = rf'^name = "(?:inference-gateway-workspace|{"|".join(_PACKAGES)})"\nversion = "{VERSION}"$'
_IMAGES = rf"inference-gateway/(?:picker|vllm-mock|benchmark|nightly|\$1|\$image):{VERSION}"
_IMAGE_FILES = ("README.md", "docs/*.md", "ci/nightly/**/*", "e2e/**/*.py", "e2e/**/*.yaml", "charts/**/*.yaml")


def source() -> str:
    """The version: `appVersion` of the chart."""
    found = re.search(rf"^appVersion: {VERSION}$", (ROOT / CHART).read_text(), re.MULTILINE)
    assert found is not None, f"{CHART} has no appVersion"
    return found[1]


def places() -> list[tuple[Path, str]]:
    """Files that hold the version, each with a pattern whose first group is the version."""
    projects = [ROOT / "pyproject.toml", *ROOT.glob("*/pyproject.toml"), *ROOT.glob("*/*/pyproject.toml")]
    images = sorted({file for pattern in _IMAGE_FILES for file in ROOT.glob(pattern) if file.is_file()})
    return [
        *((ROOT / CHART, line) for line in _CHART_LINES),
        (ROOT / CHART.parent / "charts/crds/Chart.yaml", _CHART_LINES[0]),
        *((file, rf'^version = "{VERSION}"$') for file in projects),
        (ROOT / "uv.lock", _LOCKED),
        *((file, _IMAGES) for file in images if "__pycache__" not in file.parts and file.suffix != ".tgz"),
    ]


def differences(version: str) -> list[str]:
    """A line for each place that does not have `version`."""
    return [
        f"{file.relative_to(ROOT)}: {found[0].splitlines()[-1].strip()}"
        for file, pattern in places()
        for found in re.finditer(pattern, file.read_text(errors="replace"), re.MULTILINE)
        if found[1] != version
    ]


def write(version: str) -> None:
    """Writes `version` to every place."""
    for file, pattern in places():
        text = file.read_text(errors="replace")
        new = re.sub(pattern, lambda found: found[0].replace(found[1], version), text, flags=re.MULTILINE)
        if new != text:
            file.write_text(new)


def main(arguments: list[str]) -> int:
    if arguments:
        if re.fullmatch(VERSION, arguments[0]) is None:
            print(f"version: expected X.Y.Z, found {arguments[0]}", file=sys.stderr)
            return 2
        write(arguments[0])
    different = differences(source())
    for line in different:
        print(f"not version {source()}: {line}", file=sys.stderr)
    return bool(different)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
