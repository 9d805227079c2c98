"""The result of comparing one recording with the mock."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the report."""

    file: str
    difference: str | None
    """The first difference. None if there is none."""
    note: str = ""
