"""The chart's dashboards and rules equal the generated files."""

from pathlib import Path

import pytest
from observability.files import generated, write

FILES = Path(__file__).parents[3] / "charts" / "inference-gateway" / "files"


@pytest.mark.parametrize("name", generated())
def test_a_file_of_the_chart_equals_the_generated_one(name: str) -> None:
    """If it does not, run `make dashboards`."""
    assert (FILES / name).read_text() == generated()[name]


def test_the_chart_has_no_other_files() -> None:
    """A file that is no longer generated would stay in Grafana."""
    assert {str(path.relative_to(FILES)) for path in FILES.rglob("*") if path.is_file()} == set(generated())


def test_only_changed_files_are_written(tmp_path: Path) -> None:
    assert len(write(tmp_path)) == len(generated())
    changed = tmp_path / next(iter(generated()))
    changed.write_text("{}")
    assert write(tmp_path) == [changed]
    assert write(tmp_path) == []
