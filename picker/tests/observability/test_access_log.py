"""The access log: a line of JSON for each request."""

import json
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import pytest
from picker.extproc.headers import pick_request
from picker.extproc.messages import RequestHeaders
from picker.observability import access_log as module
from picker.observability.access_log import AccessLog, LogUnusable
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.request_body import ParsedBody
from structlog.testing import capture_logs
from watched import Watched


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.jsonl"


@pytest.fixture
async def log(path: Path) -> AsyncGenerator[AccessLog]:
    log = AccessLog(str(path), lambda: 0.0)
    yield log
    await log.close()


async def lines(log: AccessLog, path: Path) -> list[Mapping[str, object]]:
    await log.close()
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.looptime
async def test_a_request_is_logged_at_its_end(log: AccessLog, path: Path) -> None:
    watched = Watched(observers=(log,))
    request = watched.scheduled()
    assert await lines(log, path) == []
    watched.now_s = 0.25
    watched.respond(request, 200)
    watched.now_s = 1.5
    watched.end(request)
    [line] = await lines(log, path)
    assert line == {
        "time": "1970-01-01T00:00:00Z", "request_id": "id-1", "pool": "default/a", "path": "", "model": "m",
        "target_model": "m", "criticality": "Standard", "priority": 0, "endpoint": request.endpoint.address,
        "server": request.endpoint.server, "prompt_tokens": 1000, "max_output_tokens": 100, "request_bytes": 4030,
        "status": 200, "decision_s": 0.0, "time_to_first_byte_s": 0.25, "duration_s": 1.5,
    }  # fmt: skip


@pytest.mark.looptime
async def test_a_rejected_request_is_logged_with_its_reason(log: AccessLog, path: Path) -> None:
    Watched(observers=(log,)).assign(subset=frozenset())
    [line] = await lines(log, path)
    assert (line["status"], line["reason"], line["pool"]) == (503, "subset-empty", "default/a")
    assert "endpoint" not in line


@pytest.mark.looptime
async def test_a_rotated_file_is_created_again(log: AccessLog, path: Path) -> None:
    watched = Watched(observers=(log,))
    watched.end(watched.scheduled())
    assert len(await lines(log, path)) == 1
    path.rename(path.with_suffix(".1"))
    watched.end(watched.scheduled())
    assert len(await lines(log, path)) == 1


@pytest.mark.looptime
async def test_lines_beyond_the_bound_are_discarded_and_counted(
    log: AccessLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a slow disk uses bounded memory, and no request waits."""
    watched = Watched(observers=(log,))
    watched.end(watched.scheduled())
    [line] = await lines(log, path)
    path.unlink()
    size = len(json.dumps(line, separators=(",", ":")))
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 3 * size + size // 2)
    for _ in range(5):
        watched.end(watched.scheduled())
    with capture_logs() as logs:
        assert len(await lines(log, path)) == 3
    assert [(entry["event"], entry["lines"]) for entry in logs] == [("access_log.lines_discarded", 2)]


@pytest.mark.looptime
async def test_a_line_is_bounded_and_has_no_query(log: AccessLog, path: Path) -> None:
    watched = Watched(observers=(log,))
    text = "\x00" * 40_000
    body = ParsedBody(text, prompt=b"x", salt=b"", prompt_tokens=1, output_tokens=1)
    pool = str(watched.pools[0].pool.name)
    for subset in (None, frozenset[str]()):
        fields = {":path": f"/{text}?key=secret", "x-request-id": text, "traceparent": text}
        request = pick_request(RequestHeaders(fields, False, subset, None, pool), body, 10)
        assigned = watched.director.assign(request)
        if isinstance(assigned, InFlightRequest):
            assigned.served_model = None
            watched.end(assigned)
    short = RequestHeaders({":path": "/v1/models?key=secret"}, True, frozenset(), None, pool)
    watched.director.assign(pick_request(short, body, 0))
    found = await lines(log, path)
    assert len(found) == 3
    assert max(map(len, path.read_bytes().splitlines())) <= module.MAX_LINE_BYTES
    assert b"secret" not in path.read_bytes()


@pytest.mark.looptime
async def test_the_log_continues_after_a_failed_write(log: AccessLog, path: Path) -> None:
    watched = Watched(observers=(log,))
    path.unlink()
    path.mkdir()
    watched.end(watched.scheduled())
    with capture_logs() as logs:
        await log.close()
    assert [entry["event"] for entry in logs] == ["access_log.failed"]
    path.rmdir()
    watched.end(watched.scheduled())
    assert len(await lines(log, path)) == 1


def test_a_file_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(LogUnusable, match="No such file or directory"):
        AccessLog(str(tmp_path / "nowhere" / "access.jsonl"))
