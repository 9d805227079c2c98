"""What comparing one recording with the mock gave."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the report."""

    file: str
    difference: str | None
    """The first difference; None where there is none."""
    note: str = ""
