"""All that watches one picker, put together."""

import asyncio
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from starlette.routing import Route

from picker.cli_error import CliError
from picker.observability.access_log import AccessLog
from picker.observability.admin_pages import pages
from picker.observability.metrics import PickerMetrics
from picker.observability.observer import WatchedDesk, pool_label
from picker.observability.pool_states import pool_states
from picker.observability.request_record import RequestSink
from picker.requestcontrol.director import PoolDesk, ServedPool
from picker.settings import CommonSettings

if TYPE_CHECKING:
    from picker.observability.traces import Traces


class ExtraMissing(CliError):
    """A setting needs a package that is not installed."""


class Watch:
    """Put its `desk` between an exchange and the picker's own desk, its metrics into the process's registry, and its
    pages on the admin address."""

    def __init__(
        self,
        settings: CommonSettings,
        desk: PoolDesk,
        pools: Callable[[], Iterable[ServedPool]],
        scrape_clock: Callable[[], float],
        refused_changes: Callable[[], int],
    ) -> None:
        """`pools`: those that are served now. `refused_changes`: of the source.
        Raises ExtraMissing, LogUnusable."""
        self._access_log = AccessLog(settings.access_log) if settings.access_log is not None else None
        self._traces = _traces(settings)
        tellers: tuple[RequestSink | None, ...] = (self._access_log, self._traces)
        self.desk = WatchedDesk(
            desk,
            time.perf_counter,
            kept_decisions=settings.kept_decisions,
            tellers=tuple(teller for teller in tellers if teller is not None),
        )
        self.metrics = PickerMetrics(self.desk.counters, pools, scrape_clock, refused_changes)
        self._pools = pools
        self._scrape_clock = scrape_clock

    def register(self, registry: CollectorRegistry) -> None:
        """Add the picker's metrics to the process's."""
        registry.register(self.metrics)

    def pages(self) -> list[Route]:
        return pages(
            lambda: pool_states(self._pools(), self.desk.counters, self._scrape_clock()),
            lambda: reversed(self.desk.decisions),
            time.perf_counter,
        )

    def followed(self) -> None:
        """The pools are those of a new inventory."""
        self.metrics.applied_changes += 1
        self.desk.forget()
        self.desk.counters.keep({pool_label(served.pool.name) for served in self._pools()})

    async def close(self) -> None:
        """Write and send what waits."""
        if self._access_log is not None:
            await self._access_log.close()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)


def _traces(settings: CommonSettings) -> "Traces | None":
    if settings.traces_endpoint is None:
        return None
    try:
        # Only where they are wanted: they take longer to import than the rest of the picker.
        from picker.observability.traces import Traces
    except ImportError as error:
        needed = "the packages of picker[traces], opentelemetry-proto last: xds-protos overwrites files of it"
        raise ExtraMissing(f"traces-endpoint needs {needed}: {error}") from None
    return Traces.to(settings.traces_endpoint, version("picker"), settings.traces_sample_ratio)
