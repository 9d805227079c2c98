"""Reading traces of both formats, plain and compressed."""

import gzip
from pathlib import Path
from typing import Literal

import pytest
from simulator.cli import TRACES
from simulator.workload.generator import Session
from simulator.workload.scenario import Trace
from simulator.workload.traces import TraceError, trace_sessions

LINES = """\
{"timestamp": 1000, "input_length": 600, "output_length": 7, "hash_ids": [0, 1]}
{"timestamp": 3000, "input_length": 500, "output_length": 5, "hash_ids": [2]}
"""


def trace(path: str, kind: Literal["mooncake", "azure"] = "mooncake") -> Trace:
    return Trace.model_validate({"kind": "trace", "format": kind, "path": path, "max_input_tokens": 200_000})


def shape(sessions: list[Session]) -> list[tuple[float, int, int]]:
    return [(session.start_s, turn.prompt_tokens, turn.output_tokens) for session in sessions for turn in session.turns]


def test_a_compressed_trace_is_read_like_the_plain_one(tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl").write_text(LINES)
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    plain, packed = (shape(list(trace_sessions(trace(name), tmp_path, 60))) for name in ("plain.jsonl", "packed.jsonl"))
    assert packed == plain == [(0.0, 600, 7), (2.0, 500, 5)]


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(LINES.encode())[:-9]], ids=["other", "cut"])
def test_a_file_that_is_not_gzip_is_reported(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(content)
    with pytest.raises(TraceError, match=r"x\.jsonl\.gz"):
        list(trace_sessions(trace("x.jsonl"), tmp_path, 60))


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [("mooncake-synthetic.jsonl", "mooncake", 3993), ("azure-llm-2023-code.csv", "azure", 8819)],
)
def test_the_traces_of_the_project_are_complete(name: str, kind: Literal["mooncake", "azure"], count: int) -> None:
    assert len(list(trace_sessions(trace(name, kind), TRACES, 1e9))) == count
