"""The access log: a line of JSON a request."""

import json
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import pytest
from picker.observability import access_log as module
from picker.observability.access_log import AccessLog, LogUnusable
from picker.observability.request_record import Course
from picker.requestcontrol.interfaces import Wanted
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
async def test_a_request_is_told_at_its_end(log: AccessLog, path: Path) -> None:
    watched = Watched(tellers=(log,))
    course = watched.course()
    assert await lines(log, path) == []
    watched.now_s = 0.25
    course.first_byte(200)
    watched.now_s = 1.5
    course.end()
    [line] = await lines(log, path)
    assert line == {
        "time": "1970-01-01T00:00:00Z", "request_id": "id-1", "pool": "default/a", "path": "", "model": "m",
        "target_model": "m", "criticality": "Standard", "endpoint": course.endpoint.address,
        "server": course.endpoint.server, "prompt_tokens": 1000, "max_output_tokens": 100, "request_bytes": 4030,
        "status": 200, "decision_s": 0.0, "time_to_first_byte_s": 0.25, "duration_s": 1.5,
    }  # fmt: skip


@pytest.mark.looptime
async def test_a_request_that_was_turned_away_is_told_with_the_reason(log: AccessLog, path: Path) -> None:
    Watched(tellers=(log,)).ask(subset=frozenset())
    [line] = await lines(log, path)
    assert (line["status"], line["reason"], line["pool"]) == (503, "subset-empty", "default/a")
    assert "endpoint" not in line


@pytest.mark.looptime
async def test_a_file_that_was_rotated_away_is_made_anew(log: AccessLog, path: Path) -> None:
    watched = Watched(tellers=(log,))
    watched.course().end()
    assert len(await lines(log, path)) == 1
    path.rename(path.with_suffix(".1"))
    watched.course().end()
    assert len(await lines(log, path)) == 1


@pytest.mark.looptime
async def test_what_a_slow_disk_cannot_take_is_dropped_and_told(
    log: AccessLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded, and no request waits."""
    watched = Watched(tellers=(log,))
    watched.course().end()
    [line] = await lines(log, path)
    path.unlink()
    size = len(json.dumps(line, separators=(",", ":")))
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 3 * size + size // 2)
    for _ in range(5):
        watched.course().end()
    with capture_logs() as told:
        assert len(await lines(log, path)) == 3
    assert [(each["event"], each["lines"]) for each in told] == [("access_log.dropped", 2)]


@pytest.mark.looptime
async def test_a_line_is_bounded_and_has_no_query(log: AccessLog, path: Path) -> None:
    watched = Watched(tellers=(log,))
    text = "\x00" * 40_000
    body = ParsedBody(text, prompt=b"x", salt=b"", prompt_tokens=1, output_tokens=1)
    pool = str(watched.pools[0].pool.name)
    for subset in (None, frozenset[str]()):
        wanted = Wanted(pool, body, subset, path=f"/{text}?key=secret", request_id=text, trace=text)
        course = watched.desk.assign(wanted)
        if isinstance(course, Course):
            course.served_model = None
            course.end()
    watched.desk.assign(Wanted(pool, body, frozenset(), path="/v1/models?key=secret"))
    found = await lines(log, path)
    assert len(found) == 3
    assert max(map(len, path.read_bytes().splitlines())) <= module.MAX_LINE_BYTES
    assert b"secret" not in path.read_bytes()


@pytest.mark.looptime
async def test_a_disk_that_fails_is_told_and_the_log_goes_on(log: AccessLog, path: Path) -> None:
    watched = Watched(tellers=(log,))
    path.unlink()
    path.mkdir()
    watched.course().end()
    with capture_logs() as told:
        await log.close()
    assert [each["event"] for each in told] == ["access_log.failed"]
    path.rmdir()
    watched.course().end()
    assert len(await lines(log, path)) == 1


def test_a_file_that_cannot_be_written_stops_the_picker_at_its_start(tmp_path: Path) -> None:
    with pytest.raises(LogUnusable, match="No such file or directory"):
        AccessLog(str(tmp_path / "nowhere" / "access.jsonl"))
