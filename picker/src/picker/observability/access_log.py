"""The access log: a line of JSON for each request, written after its end."""

import asyncio
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import msgspec
import structlog

from picker.cli_error import CliError
from picker.observability.priority_labels import criticality_name
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.request_observer import RejectedRequest, RequestObserver
from picker.requestcontrol.served_pool import ServedPool

FLUSH_S = 0.5
"""The longest time from a request's end to the write of its line. Measured: one write of many lines costs a tenth of
a write of each."""

MAX_WAITING_BYTES = 25 << 20
"""Of lines, some 50,000, that wait for a slow disk or reader. Further lines are discarded, and their number is logged:
a full disk must not stop requests. Judgement."""

MAX_LINE_BYTES = 12 << 10
"""Longer lines are discarded. Each field has at most 256 characters, of at most six bytes each in JSON."""

log = structlog.get_logger(__name__)


class AccessLogEntry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A line of the access log. Unknown fields are omitted."""

    time: datetime
    """When the request ended."""
    request_id: str | None
    pool: str
    path: str
    model: str | None
    target_model: str | None = None
    criticality: str = ""
    priority: int | None = None
    endpoint: str | None = None
    """`ip:port` of the endpoint that served the request."""
    server: str | None = None
    fell_back: bool = False
    """Whether another endpoint than the picked one served the request."""
    prompt_tokens: int
    """Estimated."""
    cached_tokens: int = 0
    """Those of `prompt_tokens` that are expected in the endpoint's prefix cache."""
    max_output_tokens: int = 0
    request_bytes: int
    status: int | None = None
    reason: str | None = None
    """Why the picker rejected the request."""
    decision_s: float
    time_to_first_byte_s: float | None = None
    duration_s: float | None = None
    trace: str | None = None
    """`traceparent`."""


class LogUnusable(CliError):
    """The access log's file cannot be written."""


class AccessLog(RequestObserver):
    """Writes a line for each request, in a thread."""

    def __init__(self, target: str, wall_clock: Callable[[], float] = time.time) -> None:
        """`target`: a file, or `-` for standard output. The file is opened for each write, so it may be rotated. Raises
        LogUnusable."""
        if target != "-":
            try:
                Path(target).open("ab").close()
            except OSError as error:
                raise LogUnusable(f"access-log {target}: {error.strerror}") from None
        self._target = target
        self._wall_clock = wall_clock
        self._encoder = msgspec.json.Encoder()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._discarded = 0
        self._flushing: asyncio.Task[None] | None = None

    def ended(self, request: InFlightRequest) -> None:
        begun_s, info = request.begun_s, request.info
        self._write(
            AccessLogEntry(
                time=self._now(),
                request_id=info.request_id,
                pool=request.pool,
                path=info.path,
                model=request.requested_model,
                target_model=request.served_model or request.requested_model,
                criticality=criticality_name(request.request.priority),
                priority=request.request.priority,
                endpoint=request.endpoint.address,
                server=request.endpoint.server,
                fell_back=request.rerouted,
                prompt_tokens=request.request.prompt_tokens,
                cached_tokens=request.ranking.cached_tokens,
                max_output_tokens=request.request.output_tokens,
                request_bytes=info.body_bytes,
                status=request.status,
                decision_s=_seconds(request.decided_s - begun_s),
                time_to_first_byte_s=_seconds(request.response_s - begun_s) if request.response_s else None,
                duration_s=_seconds(request.ended_s - begun_s) if request.ended_s else None,
                trace=info.trace,
            )
        )

    def rejected(self, request: RejectedRequest, pool: ServedPool | None) -> None:
        info = request.info
        self._write(
            AccessLogEntry(
                time=self._now(),
                request_id=info.request_id,
                pool=request.pool,
                path=info.path,
                model=request.requested_model,
                criticality=criticality_name(request.priority),
                priority=request.priority,
                prompt_tokens=request.prompt_tokens,
                request_bytes=info.body_bytes,
                status=request.rejection.status,
                reason=request.rejection.reason,
                decision_s=_seconds(request.decided_s - request.begun_s),
                trace=info.trace,
            )
        )

    async def close(self) -> None:
        """Writes the lines that wait."""
        if self._flushing is not None:
            await self._flushing
        if self._waiting:
            await self._flush(0.0)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall_clock(), UTC)

    def _write(self, line: AccessLogEntry) -> None:
        encoded = self._encoder.encode(line)
        if len(encoded) > MAX_LINE_BYTES or self._waiting_bytes + len(encoded) > MAX_WAITING_BYTES:
            self._discarded += 1
            return
        self._waiting_bytes += len(encoded)
        self._waiting.append(encoded)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush(FLUSH_S))

    async def _flush(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while self._waiting:
            lines, self._waiting, self._waiting_bytes = self._waiting, [], 0
            if self._discarded:
                log.warning(
                    "access_log.lines_discarded", lines=self._discarded, reason="the disk or the reader is too slow"
                )
                self._discarded = 0
            try:
                await asyncio.to_thread(self._append, b"\n".join(lines) + b"\n")
            except OSError as error:
                log.error("access_log.failed", target=self._target, lines=len(lines), error=str(error))
                return

    def _append(self, data: bytes) -> None:
        if self._target == "-":
            _write_all(sys.stdout.buffer, data)
        else:
            with Path(self._target).open("ab") as file:
                _write_all(file, data)


def _write_all(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()


def _seconds(value: float) -> float:
    return round(value, 6)
