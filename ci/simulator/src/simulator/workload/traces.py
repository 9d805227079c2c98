"""Reads recorded traces in their published formats, plain or compressed with gzip."""

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from errno import ENOENT
from pathlib import Path
from typing import TextIO

from picker.resources.inference import Criticality

from simulator.workload.content import Content, Piece
from simulator.workload.generator import UNBOUNDED, Session, Turn
from simulator.workload.scenario import Trace

MOONCAKE_BLOCK_TOKENS = 512
"""Tokens of the block that one of `hash_ids` identifies."""


class TraceError(Exception):
    """The trace is missing, or not in the configured format."""


@dataclass(frozen=True, slots=True)
class _Recorded:
    at_s: float
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...]


def trace_file(trace: Trace, folder: Path) -> Path:
    """The file of `trace` in `folder`: the path itself, else the same with `.gz`. Raises FileNotFoundError."""
    plain = folder / trace.path
    for path in (plain, plain.with_name(f"{plain.name}.gz")):
        if path.is_file():
            return path
    raise FileNotFoundError(ENOENT, "no such file, nor one with .gz", str(plain))


def trace_sessions(trace: Trace, folder: Path, duration_s: float) -> Iterator[Session]:
    """Yields each request as a session of its own; the first arrives at 0 s. Raises TraceError."""
    path = folder / trace.path
    try:
        path = trace_file(trace, folder)
        recorded = _mooncake(path) if trace.format == "mooncake" else _azure(path)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, EOFError) as error:
        raise TraceError(f"{path}: not in the {trace.format} format: {error}") from None
    recorded = recorded[trace.start :]
    for index, request in enumerate(recorded):
        start_s = (request.at_s - recorded[0].at_s) / trace.speed
        if start_s >= duration_s:
            return
        yield Session(start_s, iter([_turn(request, index, trace.max_input_tokens)]))


def _turn(recorded: _Recorded, index: int, max_input_tokens: int) -> Turn:
    prompt = min(max(1, recorded.input_tokens), max_input_tokens)
    # Blocks are numbered from 0. Text without a block number, and every answer, is unique.
    pieces = [
        Piece(number + 1, (position + 1) * MOONCAKE_BLOCK_TOKENS)
        for position, number in enumerate(recorded.hash_ids)
        if (position + 1) * MOONCAKE_BLOCK_TOKENS <= prompt
    ]
    content = Content((*pieces, Piece(UNBOUNDED + index, UNBOUNDED)))
    output = max(1, recorded.output_tokens)
    return Turn(0.0, content, prompt, output, output, None, Criticality.STANDARD)


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _mooncake(path: Path) -> list[_Recorded]:
    with _open(path) as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return [
        _Recorded(row["timestamp"] / 1000, row["input_length"], row["output_length"], tuple(row["hash_ids"]))
        for row in rows
    ]


def _azure(path: Path) -> list[_Recorded]:
    with _open(path) as lines:
        return [
            _Recorded(
                # The trace has seven decimals of a second; Python reads six.
                datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp(),
                int(row["ContextTokens"]),
                int(row["GeneratedTokens"]),
                (),
            )
            for row in csv.DictReader(lines)
        ]
