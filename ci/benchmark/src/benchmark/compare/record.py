"""A comparison as it is kept: a JSON object, and a line of a history file."""

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from benchmark.compare.rounds import Comparison
from benchmark.compare.verdict import FAILED_REQUESTS, FIGURES, Better, judge


class BadHistory(Exception):
    """A file, or a line of it, that is no record; the message names it."""


class FigureRecord(msgspec.Struct, frozen=True):
    """A figure of a contender."""

    name: str
    unit: str
    better: Better
    rounds: tuple[float, ...]
    """Its values, round by round."""
    mean: float


class ContenderRecord(msgspec.Struct, frozen=True):
    """What one target did. Figures that it does not have are left out."""

    name: str
    url: str
    figures: tuple[FigureRecord, ...]


class RatioRecord(msgspec.Struct, frozen=True):
    """A contender's figure over the first contender's. None where there is no ratio or no interval."""

    contender: str
    figure: str
    mean: float | None
    low: float | None
    high: float | None
    conclusion: str


class Record(msgspec.Struct, frozen=True):
    """One comparison. A field that is added has a default: the histories that there are have lines without it."""

    date: datetime
    load: str
    """What was sent, and how fast. Records are comparable when this and the contenders' names are equal."""
    failed_requests: int
    contenders: tuple[ContenderRecord, ...]
    ratios: tuple[RatioRecord, ...]
    failed: bool = False
    """Whether the requests that failed are more than a comparison bears."""
    regressions: tuple[str, ...] = ()
    """What was worse than in the good runs before; a sentence each."""
    missed: tuple[str, ...] = ()
    """Aims; a sentence each."""

    @property
    def good(self) -> bool:
        """Whether later runs may be measured by it."""
        return not self.failed and not self.regressions

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it is a failure where regressions are one; a sentence each."""
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
        """Equal for comparable records."""
        return (self.load, *(contender.name for contender in self.contenders))


def record_of(comparison: Comparison, date: datetime) -> Record:
    """Without regressions: those are known once there is a history to look at."""
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
    """The workload and the pace, for people and for telling comparable runs."""
    pace = comparison.plan.pace
    parts = [comparison.rounds[0][0].result.workload.name]
    if not math.isinf(pace.request_rate):
        parts.append(f"{pace.request_rate:g} requests/s, burstiness {pace.burstiness:g}")
    if pace.max_concurrency is not None:
        parts.append(f"at most {pace.max_concurrency} at a time")
    return "; ".join(parts)


def save_record(path: Path, record: Record) -> None:
    """Write the JSON file, its folder too. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def read_record(path: Path) -> Record:
    """What `save_record` has written. Raises BadHistory, OSError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadHistory(f"{path}: {error}; allowed is what --json writes") from None


def read_history(path: Path) -> tuple[Record, ...]:
    """The records of a history file, oldest first; none if there is no file yet. Raises BadHistory, OSError."""
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
    """Append a line, making the file and its folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(record) + b"\n")


def _figures(comparison: Comparison, contender: int) -> tuple[FigureRecord, ...]:
    records: list[FigureRecord] = []
    for figure in FIGURES:
        values: Sequence[float] = [figure.of(leg) for leg in comparison.legs_of(contender)]
        if not any(math.isnan(value) for value in values):
            records.append(
                FigureRecord(figure.name, figure.unit, figure.better, tuple(values), sum(values) / len(values))
            )
    return tuple(records)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
