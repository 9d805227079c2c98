"""Runs an engine on asyncio, in real time or faster."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from vllm_mock.engine.core import Engine
from vllm_mock.engine.messages import EngineRequest, FinishReason, NewTokens

_IDLE_S = 10.0
"""Interval at which the rates of an idle engine are updated, as in vLLM's API server."""
_MOST_LATE_S = 0.25
"""Largest lateness, in real seconds, that later steps make up for. Judgement: a process that was paused for longer does
not compute many steps at once."""
OnTokens = Callable[[NewTokens], None]


class Companion(Protocol):
    """A service that runs as long as the engine, such as the publisher of its KV events."""

    def start(self) -> None: ...

    async def stop(self) -> None: ...


class AsyncEngine:
    """Steps an engine while it has work. Steps end at absolute times, so lateness does not add up."""

    def __init__(
        self,
        engine: Engine,
        time_scale: float = 1.0,
        companion: Companion | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """With `time_scale` 10, ten seconds of the engine pass in one second. `companion` starts and stops with the
        engine."""
        self.engine = engine
        self.time_scale = time_scale
        self._listeners: dict[str, OnTokens] = {}
        self._work = asyncio.Event()
        self._running = asyncio.Event()
        self._running.set()
        self._task: asyncio.Task[None] | None = None
        self._companion = companion
        self._monotonic_s = monotonic_s
        self._started_s = monotonic_s()

    def now_s(self) -> float:
        """Return the engine's time, in seconds since its creation."""
        return (self._monotonic_s() - self._started_s) * self.time_scale

    def start(self, on_failure: Callable[[BaseException], None] | None = None) -> None:
        """Start stepping. `on_failure` is called with an error that ends the engine. No tokens follow it."""
        if self._companion is not None:
            self._companion.start()
        self._task = asyncio.create_task(self._run())
        if on_failure is not None:
            self._task.add_done_callback(lambda task: _report_failure(task, on_failure))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._companion is not None:
            await self._companion.stop()

    def submit(self, request: EngineRequest, on_tokens: OnTokens) -> None:
        """Queue `request`. `on_tokens` is called for each step that generates tokens for it."""
        self._listeners[request.request_id] = on_tokens
        self.engine.add(request, self.now_s())
        self._work.set()

    def abort(self, request_id: str) -> None:
        """Remove a request whose client has disconnected."""
        if self._listeners.pop(request_id, None) is not None:
            self.engine.abort(request_id)

    def finish(self, request_id: str, reason: FinishReason) -> None:
        """End a request for a reason that the front end found, such as a stop string."""
        if self._listeners.pop(request_id, None) is not None:
            self.engine.finish(request_id, reason, self.now_s())

    def stall(self) -> None:
        """Generate no tokens until `resume`."""
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    async def _run(self) -> None:
        now_s = self.now_s()
        while True:
            if not self._running.is_set():
                await self._running.wait()
                now_s = self.now_s()
            duration_s = self.engine.begin_step(now_s)
            if duration_s is None:
                self._work.clear()
                await self._wait_for_work()
                now_s = self.now_s()
                continue
            now_s += duration_s
            await asyncio.sleep((now_s - self.now_s()) / self.time_scale)
            now_s = max(now_s, self.now_s() - _MOST_LATE_S * self.time_scale)
            for tokens in self.engine.end_step(now_s):
                on_tokens = self._listeners.get(tokens.request_id)
                if tokens.finish_reason is not None:
                    self._listeners.pop(tokens.request_id, None)
                if on_tokens is not None:
                    on_tokens(tokens)

    async def _wait_for_work(self) -> None:
        """Wait for work, and update the engine's rates every `_IDLE_S` seconds meanwhile."""
        while not self._work.is_set():
            try:
                await asyncio.wait_for(self._work.wait(), _IDLE_S / self.time_scale)
            except TimeoutError:
                self.engine.idle(self.now_s())


def _report_failure(task: asyncio.Task[None], on_failure: Callable[[BaseException], None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        on_failure(error)
