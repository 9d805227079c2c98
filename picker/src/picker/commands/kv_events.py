"""The KV-event mode: prefix caches as model servers report them by KV events.

It needs the extra `picker[kv-events]`. Without the setting `kv_events_port` this module is not imported."""

import asyncio
from collections.abc import Callable, Sequence

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.kv_event_index import KvEventIndex
from picker.endpoints.prefix_cache.kv_events.reported_blocks import ReportedBlocks
from picker.endpoints.prefix_cache.kv_events.subscriber import KvEventPorts, KvEventSubscriber
from picker.requestcontrol.director import BLOCK_TOKENS
from picker.requestcontrol.tokenize_client import TokenizeClient


class KvEventMode:
    """Implements `reconcile.Precise`. `run` it as long as the picker runs."""

    def __init__(self, ports: KvEventPorts, emptied: Callable[[Endpoint], None]) -> None:
        """`emptied` is called when an endpoint reports that its prefix cache is empty."""
        self.held = ReportedBlocks()
        self.prompts = TokenizeClient()
        self._events = KvEventSubscriber(ports, self.held, emptied)

    def index(self, pool: Sequence[Endpoint]) -> KvEventIndex:
        return KvEventIndex(BLOCK_TOKENS, self.held, pool)

    def add(self, endpoint: Endpoint) -> None:
        self._events.add(endpoint)

    def remove(self, endpoint: Endpoint) -> None:
        self._events.remove(endpoint)

    async def run(self) -> None:
        try:
            await self.prompts.run()
        finally:
            await asyncio.shield(self._events.close())
