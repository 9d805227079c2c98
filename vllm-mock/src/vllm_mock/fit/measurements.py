"""What was measured: a row for each concurrency, from results of `vllm bench serve` or from a list written by hand."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class InvalidMeasurements(Exception):
    """A file that holds no measurements; the message names it, and what is wrong."""


class Measurement(BaseModel):
    """Of a closed loop: always `concurrency` requests under way, each of the same lengths."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    concurrency: int = Field(ge=1)
    input_tokens: float = Field(ge=1)
    """Mean, of a prompt."""
    output_tokens: float = Field(gt=1)
    """Mean."""
    ttft_ms: float = Field(gt=0)
    """Median where there is one: the mean is full of the burst with which a benchmark begins."""
    tpot_ms: float = Field(gt=0)
    """Mean time of a token after the first."""

    @property
    def context_tokens(self) -> float:
        """What a sequence holds on average while it decodes."""
        return self.input_tokens + self.output_tokens / 2


class _BenchResult(BaseModel):
    """The parts that matter of a result of `vllm bench serve --save-result`."""

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
    """All rows of all files, by concurrency. A file is a result of `vllm bench serve`, or a YAML or JSON list of rows.
    Raises InvalidMeasurements."""
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
