"""Benchmark measurements, one row for each concurrency: results of `vllm bench serve`, or a list written by hand."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class InvalidMeasurements(Exception):
    """A file without valid measurements. The message names the file and the error."""


class Measurement(BaseModel):
    """Results of a closed loop with `concurrency` concurrent requests of equal lengths."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    concurrency: int = Field(ge=1)
    input_tokens: float = Field(ge=1)
    """Mean prompt length."""
    output_tokens: float = Field(gt=1)
    """Mean output length."""
    ttft_ms: float = Field(gt=0)
    """Time to first token, the median if known: the initial burst of a benchmark dominates the mean."""
    tpot_ms: float = Field(gt=0)
    """Mean time per output token after the first."""

    @property
    def context_tokens(self) -> float:
        """Mean context length of a sequence while it decodes."""
        return self.input_tokens + self.output_tokens / 2


class _BenchResult(BaseModel):
    """The fields used of a result of `vllm bench serve --save-result`."""

    max_concurrency: int
    completed: int = Field(ge=1)
    total_input_tokens: int
    total_output_tokens: int
    median_ttft_ms: float
    mean_tpot_ms: float

    def measurement(self) -> Measurement:
        return Measurement(
            concurrency=self.max_concurrency,
            input_tokens=self.total_input_tokens / self.completed,
            output_tokens=self.total_output_tokens / self.completed,
            ttft_ms=self.median_ttft_ms,
            tpot_ms=self.mean_tpot_ms,
        )


def read_measurements(files: Iterable[Path]) -> Sequence[Measurement]:
    """Reads all rows of all files, sorted by concurrency.

    A file is a result of `vllm bench serve`, or a YAML or JSON list of rows. Raises InvalidMeasurements.
    """
    rows = [row for file in files for row in _rows(file)]
    return sorted(rows, key=lambda row: (row.concurrency, row.input_tokens))


def _rows(file: Path) -> list[Measurement]:
    try:
        content: Any = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidMeasurements(f"{file}: {error}") from None
    try:
        if isinstance(content, list):
            return [Measurement.model_validate(row) for row in cast(list[Any], content)]
        if isinstance(content, dict):
            result = cast(dict[str, Any], content)
            return [_BenchResult.model_validate(result.get("result", result)).measurement()]
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidMeasurements(f"{file}: {place}: {first['msg']} (found {first['input']!r})") from None
    raise InvalidMeasurements(
        f"{file}: found neither a result of `vllm bench serve` nor a list of rows with "
        f"{', '.join(Measurement.model_fields)}"
    )
