"""Starts the KV-event mode when a pool first uses it.

Without such a pool nothing of the mode is imported: it needs the extra `picker[kv-events]`."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from picker.endpoints.endpoint import Endpoint
from picker.observability.setup import ExtraMissing
from picker.requestcontrol.director import Director
from picker.settings import CommonSettings

if TYPE_CHECKING:
    from picker.commands.kv_events import KvEventMode

VLLM_PORT = 5557
"""Port of a pool whose annotation enables KV events without the setting `kv_events_port`: vLLM's default endpoint."""

log = structlog.get_logger(__name__)


class KvEventStart:
    """Implements `reconcile.PreciseMode`. Call `stop` at the end."""

    def __init__(self, settings: CommonSettings, director: Director, cache_cleared: Callable[[Endpoint], None]) -> None:
        """`cache_cleared` is called when an endpoint reports that its prefix cache is empty. Starts the mode if it is
        the default. Must be called in the event loop that runs the mode. Raises ExtraMissing."""
        self.default = settings.kv_events_port is not None
        self._settings = settings
        self._director = director
        self._cache_cleared = cache_cleared
        self._mode: KvEventMode | None = None
        self._task: asyncio.Task[None] | None = None
        self._missing = False
        if self.default:
            self._start()

    def start(self) -> "KvEventMode | None":
        if self._mode is None and not self._missing:
            try:
                self._start()
            except ExtraMissing as error:
                self._missing = True
                log.warning("kv_events.unavailable", problem=str(error))
        return self._mode

    async def stop(self) -> None:
        """Ends all subscriptions."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _start(self) -> None:
        try:
            from picker.commands.kv_events import KvEventMode
            from picker.endpoints.prefix_cache.kv_events.subscriber import KvEventPorts
        except ImportError as error:
            raise ExtraMissing(f"KV events need the packages of picker[kv-events]: {error}") from None
        port = self._settings.kv_events_port or VLLM_PORT
        self._mode = KvEventMode(KvEventPorts(port, self._settings.kv_events_replay_port), self._cache_cleared)
        self._director.on_repeated = self._mode.prompts.repeated
        self._task = asyncio.get_running_loop().create_task(self._mode.run())
