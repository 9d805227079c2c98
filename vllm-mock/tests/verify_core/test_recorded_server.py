"""server.yaml, and responses recorded as raw lines."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from recordings import FOLDER
from vllm_mock.verify.behaviour_shutdown import stream_difference
from vllm_mock.verify.cut_stream import events_of, response_of
from vllm_mock.verify.metrics import verify_metrics
from vllm_mock.verify.recorded_server import InvalidServer, read_server
from vllm_mock.verify.traces import verify_traces

ERROR = {"error": {"message": "EngineCore encountered an issue.", "code": 500}}
STREAM = f"data: {json.dumps(ERROR)}\n\ndata: [DONE]\n\n"


def write_server(folder: Path, text: str) -> None:
    (folder / "server.yaml").write_text(text)


def test_a_later_difference_overrides_an_earlier_one(tmp_path: Path) -> None:
    write_server(tmp_path, """
flags: {max_num_seqs: 8, block_size: 32}
differs:
  - {files: [lora/*], step_floor_ms: 20, flags: {max_num_seqs: 4}}
  - {files: [lora/http/one.json], flags: {max_num_seqs: 2}}
""")  # fmt: skip
    server = read_server(tmp_path)
    found = [server.settings(file) for file in ("http/one.json", "lora/http/two.json", "lora/http/one.json")]
    assert [(settings.max_num_seqs, settings.block_size, settings.step_floor_s) for settings in found] == [
        (8, 32, 0.01), (4, 32, 0.02), (2, 32, 0.02),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flags: {max_num_seq: 8}", "max_num_seq"),
        ("flags: {max_num_seqs: none}", "max_num_seqs"),
        ("flags: {time_scale: 3}", "time_scale"),
        ("flag: {}", "flag"),
        ("step_floor_ms: -1", "step_floor_ms"),
        ("differs: 3", "differs"),
        ("a: [", "server.yaml"),
    ],
)
def test_an_invalid_setting_is_named_in_the_error(text: str, message: str, tmp_path: Path) -> None:
    write_server(tmp_path, text)
    with pytest.raises(InvalidServer, match=message):
        read_server(tmp_path).settings("http/one.json")


def test_without_server_yaml_limits_come_from_a_page(tmp_path: Path) -> None:
    page = (FOLDER / "metrics-idle.txt").read_text().replace('block_size="32"', 'block_size="16"')
    (tmp_path / "metrics-idle.txt").write_text(page)
    server = read_server(tmp_path)
    assert not server.is_described
    assert (server.settings("http/one.json").block_size, server.settings("http/one.json").max_model_len) == (16, 1024)


def test_limits_missing_in_a_trace_come_from_server_yaml(tmp_path: Path) -> None:
    """The trace is reproduced only with the server's limit of 128 batched tokens."""
    name = "g-chunked-prefill-burst.json"
    trace: Any = json.loads((FOLDER / "traces" / name).read_text())
    assert trace["config"].pop("max_num_batched_tokens") == 128
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / name).write_text(json.dumps(trace))
    shutil.copy(FOLDER / "server.yaml", tmp_path)
    assert [result.difference is None for result in verify_traces(tmp_path)] == [False]
    write_server(tmp_path, "flags: {served_model_name: [m], max_num_batched_tokens: 128}")
    assert [result.difference for result in verify_traces(tmp_path)] == [None]


def test_the_models_name_comes_from_server_yaml(tmp_path: Path) -> None:
    page = (FOLDER / "metrics-idle.txt").read_text().replace("/model/qwen", "other")
    (tmp_path / "metrics-idle.txt").write_text(page)
    shutil.copy(FOLDER / "server.yaml", tmp_path)
    assert [result.difference is None for result in verify_metrics(tmp_path)] == [False]
    write_server(tmp_path, "flags: {served_model_name: [other], max_num_seqs: 8}")
    assert [result.difference for result in verify_metrics(tmp_path)] == [None]


@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=4))
def test_events_do_not_depend_on_chunk_boundaries(cuts: list[int]) -> None:
    ends = sorted({*cuts, len(STREAM)})
    chunks = [STREAM[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    assume(not any(re.fullmatch("[0-9a-fA-F]{1,8}", line) for chunk in chunks for line in chunk.split("\n")))
    wire = "".join(f"{len(chunk):x}\r\n{chunk}\r\n" for chunk in chunks)
    pieces = [piece.rstrip("\r") for piece in (wire + "0\r\n\r\n").split("\n")]
    assert events_of(pieces) == [ERROR, "[DONE]"]


@pytest.mark.parametrize("tail", [["e", "data: [DONE]", "0"], ['code":500}}', "data: [DONE]"], [STREAM], []])
def test_a_streams_final_error_does_not_depend_on_line_splits(tail: list[str]) -> None:
    record = {"stream_tail": tail, "non_stream_response": ["content-type: application/json", json.dumps(ERROR)]}
    lines = ["data: {}", *STREAM.split("\n")]
    assert stream_difference(record, lines) is None
    assert stream_difference(record, lines[:3]) is not None
    assert stream_difference(record, [line.replace("500", "503") for line in lines]) is not None


def test_a_response_is_parsed_from_its_lines() -> None:
    body = json.dumps(ERROR)
    lines = ["HTTP/1.1 500 Internal Server Error", "Content-Type: application/json", "", body[:20], body[20:]]
    found = response_of(lines)
    assert (found.status, found.headers, found.body) == (500, {"content-type": "application/json"}, ERROR)
