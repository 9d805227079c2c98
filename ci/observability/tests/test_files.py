"""The files that the chart ships are those that the code makes."""

from pathlib import Path

import pytest
from observability.files import generated, write

FILES = Path(__file__).parents[3] / "charts" / "inference-gateway" / "files"


@pytest.mark.parametrize("name", generated())
def test_a_file_of_the_chart_is_the_generated_one(name: str) -> None:
    """After a change of dashboards or rules: make dashboards."""
    assert (FILES / name).read_text() == generated()[name]


def test_the_chart_ships_no_other() -> None:
    """One that is no longer generated would stay in everybody's Grafana."""
    assert {str(path.relative_to(FILES)) for path in FILES.rglob("*") if path.is_file()} == set(generated())


def test_only_what_has_changed_is_written(tmp_path: Path) -> None:
    assert len(write(tmp_path)) == len(generated())
    changed = tmp_path / next(iter(generated()))
    changed.write_text("{}")
    assert write(tmp_path) == [changed]
    assert write(tmp_path) == []
