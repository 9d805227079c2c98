"""The event loop of the ext_proc server's tests."""

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The picker's event loop. asyncio's own discards connections that it accepts while the certificate changes."""
    return {"uvloop": uvloop.new_event_loop}
