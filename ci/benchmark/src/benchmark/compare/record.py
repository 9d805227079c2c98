"""The stored form of a comparison: a JSON file, and a line of a history file."""

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from benchmark.compare.rounds import Comparison
from benchmark.compare.verdict import FAILED_REQUESTS, FIGURES, Better, judge


class BadHistory(Exception):
    """A file, or a line of it, is no record. The message names the file and the line."""


class FigureRecord(msgspec.Struct, frozen=True):
    """A figure of a contender."""

    name: str
    unit: str
    better: Better
    rounds: tuple[float, ...]
    """The value of each round."""
    mean: float


class ContenderRecord(msgspec.Struct, frozen=True):
    """The figures of one target. Figures that it does not have are absent."""

    name: str
    url: str
    figures: tuple[FigureRecord, ...]


class RatioRecord(msgspec.Struct, frozen=True):
    """A contender's figure divided by the first contender's. None means that there is no ratio or no interval."""

    contender: str
    figure: str
    mean: float | None
    low: float | None
    high: float | None
    conclusion: str


class Record(msgspec.Struct, frozen=True):
    """One comparison. A new field needs a default, because the lines of existing histories lack it."""

    date: datetime
    load: str
    """The workload and the pace. Records are comparable if this and the contenders' names are equal."""
    failed_requests: int
    contenders: tuple[ContenderRecord, ...]
    ratios: tuple[RatioRecord, ...]
    failed: bool = False
    """Whether more requests failed than `Comparison.failed` tolerates."""
    regressions: tuple[str, ...] = ()
    """A sentence for each figure that is worse than in earlier good runs."""
    missed: tuple[str, ...] = ()
    """A sentence for each missed threshold."""

    @property
    def good(self) -> bool:
        """Whether later runs may use this one as a baseline."""
        return not self.failed and not self.regressions

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for each reason to fail, regressions included."""
        failures = [
            f"{sum(figure.rounds):g} requests of {contender.name} failed"
            for contender in self.contenders
            for figure in contender.figures
            if self.failed and figure.name == FAILED_REQUESTS and sum(figure.rounds)
        ]
        worse = [f"Regression: {sentence}" for sentence in self.regressions]
        return (*failures, *worse, *self.missed)

    @property
    def kind(self) -> tuple[str, ...]:
        """The load and the contenders' names. Records with equal kinds are comparable."""
        return (self.load, *(contender.name for contender in self.contenders))


def record_of(comparison: Comparison, date: datetime) -> Record:
    """The record of a comparison, without regressions and missed thresholds, which are judged later."""
    contenders = comparison.plan.contenders
    return Record(
        date=date,
        load=described_load(comparison),
        failed_requests=comparison.failed_requests,
        failed=comparison.failed,
        contenders=tuple(
            ContenderRecord(contender.name, contender.target.url.geturl(), _figures(comparison, index))
            for index, contender in enumerate(contenders)
        ),
        ratios=tuple(
            RatioRecord(
                contender.name,
                row.figure.name,
                _known(ratio.mean),
                _known(ratio.low),
                _known(ratio.high),
                ratio.conclusion,
            )
            for row in judge(comparison)
            for contender, ratio in zip(contenders[1:], row.ratios, strict=True)
        ),
    )


def described_load(comparison: Comparison) -> str:
    """The workload and the pace as text. Equal texts identify comparable runs."""
    pace = comparison.plan.pace
    parts = [comparison.rounds[0][0].result.workload.name]
    if not math.isinf(pace.request_rate):
        parts.append(f"{pace.request_rate:g} requests/s, burstiness {pace.burstiness:g}")
    if pace.max_concurrency is not None:
        parts.append(f"at most {pace.max_concurrency} at a time")
    return "; ".join(parts)


def save_record(path: Path, record: Record) -> None:
    """Writes the JSON file and creates its folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def read_record(path: Path) -> Record:
    """Reads what `save_record` wrote. Raises BadHistory, OSError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadHistory(f"{path}: {error}; allowed is what --json writes") from None


def read_history(path: Path) -> tuple[Record, ...]:
    """Reads a history file, oldest record first; empty if the file does not exist. Raises BadHistory, OSError."""
    if not path.exists():
        return ()
    records: list[Record] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            records.append(msgspec.json.decode(line, type=Record))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadHistory(f"{path}, line {number}: {error}; allowed are lines written by --history") from None
    return tuple(records)


def add_to_history(path: Path, record: Record) -> None:
    """Appends a line; creates the file and its folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(record) + b"\n")


def _figures(comparison: Comparison, contender: int) -> tuple[FigureRecord, ...]:
    records: list[FigureRecord] = []
    for figure in FIGURES:
        values: Sequence[float] = [figure.of(run) for run in comparison.runs_of(contender)]
        if not any(math.isnan(value) for value in values):
            records.append(
                FigureRecord(figure.name, figure.unit, figure.better, tuple(values), sum(values) / len(values))
            )
    return tuple(records)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
